// Keys, for whoever would rather not reach for the mouse; /help lists them.
//
// They are silent in fields, with modifiers, and for whoever has switched them off.

const SHORTCUTS = [
  ["a[rel~=prev]", "h"],
  ["a[rel~=next]", "l"],
  ["input[type=search]", "/"],
  ["[data-retry]", "Shift+R"],
  ['a[href="/help"]', "?"],
];
const KEYS = {
  j: () => step("[data-row]", 1),
  k: () => step("[data-row]", -1),
  n: () => step("[data-error]", 1),
  p: () => step("[data-error]", -1),
  h: () => document.querySelector("a[rel~=prev]")?.click(),
  l: () => document.querySelector("a[rel~=next]")?.click(),
  gg: () => scrollTo(0, 0),
  G: () => scrollTo(0, document.documentElement.scrollHeight),
  "/": () => document.querySelector("input[type=search]")?.focus(),
  R: () => document.querySelector("[data-retry]")?.click(),
  "?": () => location.assign("/help"),
};
let before = "";

// Tell screen readers which key does what.
export function announce() {
  for (const [selector, keys] of SHORTCUTS) document.querySelector(selector)?.setAttribute("aria-keyshortcuts", keys);
}

function step(selector, by) {
  const all = [...document.querySelectorAll(selector)].filter((it) => selector !== "[data-row]" || it.offsetParent);
  const here = all.findIndex((it) => it.contains(document.activeElement));
  const next = here < 0 ? (by > 0 ? 0 : all.length - 1) : here + by;
  if (!all[next]) return;
  for (let fold = all[next].closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  // Enter then opens the link of a row by itself.
  const target = all[next].querySelector("[data-open]") ?? all[next];
  if (target.tabIndex < 0) target.tabIndex = -1;
  target.focus({ preventScroll: true });
  all[next].scrollIntoView({ block: "nearest" });
}

function press(event) {
  const { key: pressed, target } = event;
  if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented || event.isComposing) return;
  if (target.matches?.("input, textarea, select, [contenteditable]") || stored() === "off") return;
  const name = pressed === "g" && before === "g" ? "gg" : pressed;
  before = name === "g" ? "g" : "";
  if (!Object.hasOwn(KEYS, name)) return;
  event.preventDefault();
  KEYS[name]();
}

function stored() {
  try {
    return localStorage.getItem("keys");
  } catch {
    return null;
  }
}

document.addEventListener("keydown", press);
const off = document.getElementById("keys-off");
if (off) {
  off.checked = stored() === "off";
  off.addEventListener("change", () => localStorage.setItem("keys", off.checked ? "off" : "on"));
}
