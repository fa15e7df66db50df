"use strict";
const PAUSE = 2000;
const PATIENCE = 10000;
const lost = document.getElementById("lost");

function show(fresh) {
  if (fresh.documentElement.dataset.version !== document.documentElement.dataset.version) {
    location.reload();
  }
  for (const part of document.querySelectorAll("[data-live]")) {
    const news = fresh.getElementById(part.id);
    if (news && news.innerHTML !== part.innerHTML) {
      part.replaceChildren(...news.childNodes);
    }
  }
}

async function refresh() {
  try {
    const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(answer.statusText);
    show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    lost.hidden = true;
  } catch {
    lost.hidden = false;
  }
}

async function follow() {
  if (!document.hidden) await refresh();
  setTimeout(follow, PAUSE);
}

setTimeout(follow, PAUSE);
