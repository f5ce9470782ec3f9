// A page asks for itself again every few seconds and shows what has changed. What a reader has opened, scrolled or
// selected stays; forms stand outside of what is replaced.
"use strict";
const live = document.getElementById("live");
let pressed = false; // what lies under a pressed button stays there until it is released: else the click would be lost

addEventListener("pointerdown", () => { pressed = true; }, true);
for (const kind of ["pointerup", "pointercancel"]) {
  addEventListener(kind, () => setTimeout(() => { pressed = false; }), true); // after the click
}

function keepState(next) {
  for (const details of live.querySelectorAll("details[id]")) {
    const other = next.querySelector("#" + CSS.escape(details.id));
    if (other) other.open = details.open;
  }
}

async function refresh() {
  if (document.hidden || !document.getSelection().isCollapsed) return;
  const response = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (response.redirected || !response.ok) {
    if (response.redirected) location.reload(); // logged out in the meantime
    return;
  }
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const next = page.getElementById("live");
  if (!next || pressed || next.innerHTML === live.innerHTML) return;
  keepState(next);
  const scrolled = [...live.querySelectorAll(".wide")].map((box) => box.scrollLeft);
  const focused = document.activeElement;
  const place = live.contains(focused) ? [...live.querySelectorAll("a, summary, [tabindex]")].indexOf(focused) : -1;
  live.replaceChildren(...next.childNodes);
  live.querySelectorAll(".wide").forEach((box, i) => { box.scrollLeft = scrolled[i] || 0; });
  if (place >= 0) [...live.querySelectorAll("a, summary, [tabindex]")][place]?.focus({ preventScroll: true });
}

if (live) {
  setInterval(() => refresh().catch(() => {}), 1000 * Number(live.dataset.refresh)); // away for a moment: tried again
}
