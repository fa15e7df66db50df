"""What an operator may ask of a cache: to look at it and to care for it.

The same operations answer over the control socket (`mirror.web.control`), over TCP with the admin token, and, where no
server runs, inside the command itself (`mirror.cli.control`). To add one:

1. Write it as a coroutine ``(arguments, report) -> result`` in a module here. It takes what it was given from an
   `Arguments`, calls the engine, and returns what becomes a JSON object. Long work awaits ``report({...})`` with facts
   on the way: each becomes a line of the answer, sent at once. Who asked may go away: then the coroutine is cancelled.
2. Name it in `mirror.control.assembly`: in ``of_folder`` if it works on the cache folder alone, with and without a
   running server; else in ``of_server``.
3. Call it from a command: ``Control(config).ask(name, arguments, progress=...)``, and write the result.

Anything that the caller has got wrong is an `InvalidRequest` (the command ends with 2), any other failure another
`MirrorError` (1). What an operation with ``changes_cache`` has done is logged with who asked for it.
"""
