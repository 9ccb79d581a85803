// The log of a build: links to ranges of lines, and new lines while it runs.
//
// Whoever is at the end follows; whoever scrolls up, marks text or came by a link to a line
// is left where he is, and told how much is new.

import { AGAIN, DEAF, open } from "./page.js";

const CHUNK = 100;
const NEAR = 40;
const DOWN = ["End", "PageDown", "ArrowDown", " ", "G"];
const log = document.getElementById("log");
const button = document.getElementById("follow");

// Lines and ranges

let anchor = 0;

function lineOf(number) {
  return document.getElementById(`L${number}`);
}

function asked() {
  const found = /^#L(\d+)(?:-L(\d+))?$/.exec(location.hash);
  if (!found) return null;
  const [one, other] = [Number(found[1]), Number(found[2] ?? found[1])];
  return [Math.min(one, other), Math.max(one, other)];
}

// Show what the address asks for; lines that were left out are on a page of their own.
function highlight(scroll) {
  for (const line of log.querySelectorAll(".lit")) line.classList.remove("lit");
  const range = asked();
  if (!range) return;
  // The other end of a range that was chosen upwards stays where it is.
  if (!range.includes(anchor)) anchor = range[0];
  const first = lineOf(range[0]);
  if (!first) return elsewhere(range[0]);
  for (let line = range[0]; line <= range[1] && line < range[0] + 10000; line++) lineOf(line)?.classList.add("lit");
  if (!scroll) return;
  for (let fold = first.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  first.scrollIntoView();
  // What is above has its real height only now.
  requestAnimationFrame(() => first.scrollIntoView());
}

function elsewhere(number) {
  for (const gap of log.querySelectorAll(".gap")) {
    if (number < Number(gap.dataset.first) || number > Number(gap.dataset.last)) continue;
    for (const link of gap.querySelectorAll("a")) {
      const query = new URL(link.href).searchParams;
      if (number < Number(query.get("from")) || number > Number(query.get("to"))) continue;
      location.replace(link.href + location.hash);
      return;
    }
  }
}

// The line whose number the pointer is on.
function numbered(event) {
  const line = event.target.closest("[id^=L]");
  if (!line || !log.contains(line)) return null;
  const margin = parseFloat(getComputedStyle(line).paddingLeft);
  return event.clientX - line.getBoundingClientRect().left > margin ? null : line;
}

function choose(event) {
  const line = numbered(event);
  if (!line) return;
  event.preventDefault();
  const number = Number(line.id.slice(1));
  const range = event.shiftKey && anchor ? `#L${Math.min(anchor, number)}-L${Math.max(anchor, number)}` : `#L${number}`;
  const top = scrollY;
  location.hash = range;
  scrollTo(0, top);
  highlight(false);
  stay();
}

// New lines

const groups = new Map();
let following = false;
// Whether somebody stopped it at the end itself: then being there says nothing, for the
// browser moves along with lines that come above.
let held = false;
let unseen = 0;
let waiting = [];
let frame = 0;
let height = 0;

function atEnd() {
  return scrollY + innerHeight >= document.documentElement.scrollHeight - NEAR;
}

function toEnd() {
  scrollTo(0, document.documentElement.scrollHeight);
  height = scrollY;
}

function follow() {
  following = true;
  held = false;
  unseen = 0;
  button.hidden = true;
  toEnd();
}

function stay() {
  following = false;
  held = true;
}

function release() {
  held = false;
}

function scrolled() {
  if (!atEnd()) {
    held = false;
    if (scrollY < height) following = false;
  } else if (!held) {
    if ("follows" in log.dataset) following = true;
    unseen = 0;
    button.hidden = true;
  }
  height = scrollY;
}

function come({ html }) {
  waiting.push(html);
  frame ||= requestAnimationFrame(append);
}

function append() {
  frame = 0;
  const holder = document.createElement("template");
  holder.innerHTML = waiting.join("");
  waiting = [];
  log.querySelector("[data-empty]")?.remove();
  for (const block of holder.content.children) unseen += put(block);
  if (following) return follow();
  button.hidden = unseen === 0;
  button.textContent = `↓ ${unseen} new ${unseen === 1 ? "line" : "lines"}`;
}

// Put a writer's new lines behind its others; returns how many there were.
function put(block) {
  const group = groups.get(block.dataset.group) ?? begin(block);
  let count = 0;
  for (const line of [...block.children]) {
    if (line.id && document.getElementById(line.id)) continue;
    count += 1;
    if ("phase" in line.dataset) {
      group.place = phase(line);
      group.element.append(group.place);
      group.chunk = null;
      continue;
    }
    if (!group.chunk || group.chunk.childElementCount >= CHUNK) {
      group.chunk = document.createElement("div");
      group.place.append(group.chunk);
    }
    group.chunk.append(line);
    if (group.chunk.childElementCount === CHUNK) group.chunk.className = "chunk";
  }
  group.count += count;
  const label = group.element.querySelector(":scope > summary .muted");
  if (label) label.textContent = `${group.count.toLocaleString("en")} ${group.count === 1 ? "line" : "lines"}`;
  return count;
}

function begin(block) {
  // One writer alone has no fold, here as on the page.
  const flat = "flat" in log.dataset;
  const element = document.createElement(flat ? "div" : "details");
  element.className = "group";
  element.dataset.group = block.dataset.group;
  if (!flat) {
    element.open = true;
    const summary = document.createElement("summary");
    const title = document.createElement("b");
    const label = document.createElement("span");
    title.textContent = block.dataset.title;
    label.className = "muted";
    summary.append(title, " ", label);
    element.append(summary);
  }
  log.append(element);
  return known(element);
}

function phase(line) {
  const fold = document.createElement("details");
  const summary = document.createElement("summary");
  fold.className = "phase";
  fold.open = true;
  summary.id = line.id;
  summary.append(...line.childNodes);
  fold.append(summary);
  return fold;
}

function known(element) {
  const place = [...element.querySelectorAll(":scope > .phase")].at(-1) ?? element;
  const last = place.lastElementChild;
  const group = {
    element,
    place,
    chunk: last?.matches("div") ? last : null,
    count: element.querySelectorAll("[id^=L]").length,
  };
  groups.set(element.dataset.group, group);
  return group;
}

// What stands above the lines

let timer = 0;
let asking = false;

function head(wait = 500) {
  timer ||= setTimeout(renew, wait);
}

async function renew() {
  timer = 0;
  // What is on its way may be older than what we were told meanwhile.
  if (asking) return head();
  asking = true;
  try {
    const answer = await fetch(log.dataset.head, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(DEAF) });
    if (answer.status >= 500) return head(AGAIN);
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const now = fresh.getElementById("log-head");
    document.getElementById("log-head").replaceWith(document.adoptNode(now));
    document.title = fresh.title;
    document.querySelector("link[rel=icon]").href = fresh.querySelector("link[rel=icon]").getAttribute("href");
    if (now.dataset.state === "running") return;
    stay();
    delete log.dataset.follows;
    for (const name of now.dataset.bad.split(" ")) mark(name);
  } catch {
    // The server is away; the stream says so. What it told already it does not tell again.
    head(AGAIN);
  } finally {
    asking = false;
  }
}

function mark(name) {
  const summary = groups.get(name)?.element.querySelector(":scope > summary");
  if (!summary || summary.querySelector(".is-failed")) return;
  const failed = document.createElement("span");
  failed.className = "is-failed";
  failed.textContent = "✗ failed";
  summary.prepend(failed, " ");
  summary.parentElement.open = true;
}

function changed({ state }) {
  if (!("waits" in log.dataset)) return head();
  if (state === "queued") return;
  delete log.dataset.waits;
  location.reload();
}

function begun() {
  log.addEventListener("click", choose);
  // Shift would mark everything between the two clicks.
  log.addEventListener("mousedown", (event) => event.shiftKey && numbered(event) && event.preventDefault());
  addEventListener("hashchange", () => {
    const range = asked();
    if (range) stay();
    highlight(range && range[0] !== range[1]);
  });
  highlight(true);
  open(log.dataset.stream, { log: come, build: changed, reset: () => head(), end: () => head() });
  if (!("follows" in log.dataset)) return;
  for (const element of log.querySelectorAll(":scope > .group")) known(element);
  addEventListener("scroll", scrolled, { passive: true });
  for (const name of ["wheel", "touchmove"]) addEventListener(name, release, { passive: true });
  document.addEventListener("selectionchange", () => {
    const marked = getSelection();
    if (!marked.isCollapsed && log.contains(marked.anchorNode)) stay();
  });
  document.addEventListener("keydown", (event) => {
    if (DOWN.includes(event.key)) release();
    const typing = event.target.matches?.("input:not([type=checkbox]), textarea, select");
    if (event.key !== "f" || typing || event.ctrlKey || event.altKey || event.metaKey) return;
    if (localStorage.getItem("keys") === "off") return;
    if (following) stay();
    else follow();
  });
  button.addEventListener("click", follow);
  // Chunks get their height when they are first shown.
  new ResizeObserver(() => following && toEnd()).observe(log);
  if (location.hash) stay();
  else follow();
}

if (log) begun();
