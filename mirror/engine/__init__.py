"""The cache: decides with `mirror.policy`, carries out with what `mirror.ports` offers."""
