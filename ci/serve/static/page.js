// What every page does beyond its HTML; without it everything still works.
//
// A page with `data-events` hears of changes and then asks for itself again: the server
// alone knows how a page looks. On a page with `data-log` the stream is log.js's, which
// opens it with `open` from here.

import { announce } from "./keys.js";

const COALESCE = 250;
const SILENCE = 2000;
export const AGAIN = 5000;
// More than two of the server's signs of life. Whoever sleeps, or has lost the network, does
// not close a connection: he says nothing more.
export const DEAF = 40000;
const EVENTS = ["hello", "build", "queue", "setup", "log", "end", "reset", "beat", "bye"];

const NOT_LIVE = "not live, retrying…";

const main = document.getElementById("main");
const live = document.getElementById("live");

// By how many milliseconds the server's clock is ahead of ours.
let ahead = Number(document.body.dataset.now) - Date.now() || 0;

// The one stream

let stream = null;

// Follow `url`; `handlers` has a function (data, id) for each event that is wanted. It is
// closed while nobody can see the page, and goes on where it was. Ends the one before.
export function open(url, handlers) {
  stream?.close();
  stream = new Stream(url, handlers);
  return stream;
}

class Stream {
  constructor(url, handlers) {
    Object.assign(this, { url, handlers, last: "", source: null, bye: false });
    this.watch = () => (document.hidden ? this.pause() : this.connect());
    document.addEventListener("visibilitychange", this.watch);
    this.watch();
  }

  connect() {
    clearTimeout(this.again);
    if (this.source && this.source.readyState !== EventSource.CLOSED) return;
    const url = new URL(this.url, location.href);
    if (this.last) url.searchParams.set("last", this.last);
    this.source = new EventSource(url);
    for (const name of EVENTS) this.source.addEventListener(name, (event) => this.hear(event));
    this.source.onerror = () => this.lost();
    this.listen();
  }

  listen() {
    clearTimeout(this.deaf);
    this.deaf = setTimeout(() => this.renew(), DEAF);
  }

  renew() {
    say(NOT_LIVE);
    this.source.close();
    this.connect();
  }

  hear({ type, data, lastEventId }) {
    this.listen();
    this.last = lastEventId;
    const told = JSON.parse(data);
    if (type === "hello") {
      ahead = told.now - Date.now();
      this.well();
    }
    if (type === "bye") {
      this.bye = true;
      say("the server restarts…");
    }
    this.handlers[type]?.(told, lastEventId);
  }

  well() {
    clearTimeout(this.silence);
    this.silence = 0;
    this.bye = false;
    say("");
  }

  lost() {
    if (!this.bye) this.silence ||= setTimeout(() => say(NOT_LIVE), SILENCE);
    // After a refusal the browser does not come back by itself.
    if (this.source.readyState === EventSource.CLOSED) {
      clearTimeout(this.again);
      this.again = setTimeout(() => this.connect(), AGAIN);
    }
  }

  pause() {
    clearTimeout(this.again);
    clearTimeout(this.deaf);
    this.source?.close();
    this.well();
  }

  close() {
    document.removeEventListener("visibilitychange", this.watch);
    this.pause();
  }
}

function say(text) {
  if (live.textContent !== text) live.textContent = text;
}

// The page, asked for again

let timer = 0;
let asking = false;
let boot = null;

export function refresh(wait = COALESCE) {
  timer ||= setTimeout(load, wait);
}

async function load() {
  timer = 0;
  if (document.hidden) return document.addEventListener("visibilitychange", () => refresh(), { once: true });
  if (asking || selecting()) return refresh(1000);
  asking = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(DEAF) });
    if (answer.status < 500) show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    else refresh(AGAIN);
  } catch {
    // The server is away; the stream says so. What it told already it does not tell again.
    refresh(AGAIN);
  } finally {
    asking = false;
  }
}

// Whoever marks text wants to copy it: it must not change under his hand.
function selecting() {
  const marked = getSelection();
  return !marked.isCollapsed && main.contains(marked.anchorNode);
}

function show(fresh) {
  const style = (page) => page.querySelector("link[rel=stylesheet]")?.getAttribute("href");
  const typing = document.activeElement?.matches("input, textarea, select");
  // Another version of the server: its pages want its own style and script.
  if (style(fresh) !== style(document) && !typing) return location.reload();
  const next = fresh.getElementById("main");
  if (!next) return;
  morph(main, next);
  document.title = fresh.title;
  const icon = (page) => page.querySelector("link[rel=icon]");
  if (icon(fresh) && icon(fresh).getAttribute("href") !== icon(document).getAttribute("href"))
    icon(document).replaceWith(document.adoptNode(icon(fresh)));
  ahead = Number(fresh.body.dataset.now) - Date.now() || ahead;
  settle();
  document.dispatchEvent(new Event("page:changed"));
}

// Make `old` like `fresh` in place: what is alike stays the same element, and with it focus,
// scroll position, what somebody has half typed, and what a screen reader listens to.
function morph(old, fresh) {
  for (const { name } of [...old.attributes])
    if (!fresh.hasAttribute(name) && !kept(old, name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes)
    if (old.getAttribute(name) !== value && !kept(old, name)) old.setAttribute(name, value);
  if (old.matches("details") && made.get(old) !== fresh.open) old.open = fresh.open;
  if (old.matches("details")) made.set(old, fresh.open);
  const named = new Map();
  for (const child of old.children) if (key(child)) named.set(key(child), child);
  let place = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    let same = key(child) ? named.get(key(child)) : place;
    if (same && (same.nodeName !== child.nodeName || key(same) !== key(child))) same = null;
    if (!same) old.insertBefore(document.adoptNode(child), place);
    else {
      if (same === place) place = place.nextSibling;
      else old.insertBefore(same, place);
      if (same.nodeType === Node.ELEMENT_NODE) morph(same, child);
      else if (same.data !== child.data) same.data = child.data;
    }
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

// Which <details> the server made open: what somebody opened or closed himself stays so.
const made = new WeakMap();

function kept(element, name) {
  return (name === "open" && element.matches("details")) || (name === "tabindex" && element === document.activeElement);
}

function key(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return "";
  return node.id || (node.matches("[data-row]") && node.querySelector("[data-open]")?.getAttribute("href")) || "";
}

// After the page has come, and after each change of it.
function settle() {
  for (const element of main.querySelectorAll("details")) if (!made.has(element)) made.set(element, element.open);
  announce();
  tick();
}

// Times that go on

// As the server writes it: two units at most.
export function took(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (size, large, rest, small) => `${Math.floor(whole / size)}${large} ${Math.floor((whole % size) / rest)}${small}`;
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return two(60, "m", 1, "s");
  return whole < 86400 ? two(3600, "h", 60, "m") : two(86400, "d", 3600, "h");
}

// Where times can stand: not among the lines of a log, which may be a hundred thousand.
function timed(selector) {
  return (document.getElementById("log-head") ?? main).querySelectorAll(selector);
}

function tick() {
  const now = Date.now() + ahead;
  for (const element of timed("time[datetime]"))
    if (element.textContent.endsWith(" ago"))
      write(element, took((now - Date.parse(element.dateTime)) / 1000).split(" ")[0] + " ago");
  beat();
}

function beat() {
  for (const element of timed("[data-since]"))
    write(element, took((Date.now() + ahead - Number(element.dataset.since)) / 1000));
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

settle();
setInterval(tick, 30000);
setInterval(beat, 1000);
if (document.body.dataset.events && !("log" in document.body.dataset))
  open(document.body.dataset.events, {
    // What changed between the page and its stream nobody tells; nor what a restart changed.
    hello: (told) => {
      if (boot !== told.boot) refresh();
      boot = told.boot;
    },
    build: () => refresh(),
    queue: () => refresh(),
    setup: () => refresh(),
    reset: () => refresh(),
  });
