"use strict";

const byId = (id) => document.getElementById(id);
const FIRST_WAIT = 250, LONGEST_WAIT = 8000, MOST_SHOWN = 300;

// What was asked for at the door; null while nobody is in.
let wish = null;
let socket = null;
let timer = 0;
let wait = FIRST_WAIT;
let me = "";
// Of the server that welcomed this window last: another one after a loss is a restart.
let process = null;

function connect() {
  clearTimeout(timer);
  show("trying", process === null ? "Connecting…" : "Trying again…");
  const address = new URL("talk", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  address.search = new URLSearchParams(wish);
  const opened = new WebSocket(address);
  socket = opened;
  opened.addEventListener("message", (event) => {
    const told = JSON.parse(event.data);
    take[told.type]?.(told);
  });
  opened.addEventListener("close", () => { if (opened === socket) lost(); });
}

// By the type of a message of the server; others are of a newer one.
const take = {
  welcome(told) {
    me = told.name;
    if (process !== null) note(process === told.process ? "Connected again." : "Connected again: the server was restarted.", "good");
    process = told.process;
    wait = FIRST_WAIT;
    show("in", "Connected");
    byId("backend").textContent = `${told.backend} in thread ${told.thread}, process ${told.process}`;
  },
  presence(told) {
    byId("there").replaceChildren(...told.names.map((name) =>
      element("li", name === me ? `${name} (you)` : name, name === me ? "me" : "")));
    if (told.who !== me) note(`${told.who} ${told.what}.`);
  },
  message(told) {
    const made = element("li", undefined, told.name === me ? "message mine" : "message");
    const time = new Date(told.time * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const line = element("small");
    line.append(element("b", told.name), ` ${time}`);
    made.append(line, element("p", told.text));
    add(made);
  },
};

function lost() {
  socket = null;
  byId("there").replaceChildren();
  if (byId("state").dataset.state === "in") note("The connection was lost.", "bad");
  // Not all windows at the same moment.
  const pause = wait * (0.75 + Math.random() / 4);
  wait = Math.min(2 * wait, LONGEST_WAIT);
  show("lost", `Connection lost, next try in ${(pause / 1000).toFixed(pause < 1000 ? 1 : 0)} s`);
  timer = setTimeout(connect, pause);
}

function leave() {
  clearTimeout(timer);
  const left = socket;
  socket = wish = process = null;
  left?.close(1000);
  byId("messages").replaceChildren();
  byId("there").replaceChildren();
  byId("backend").textContent = "";
  enter(false);
  show("out", "Not connected");
  byId("join").elements.name.focus();
}

function show(state, words) {
  byId("state").dataset.state = state;
  byId("state").textContent = words;
  byId("retry").hidden = state !== "lost";
  byId("send").disabled = state !== "in";
}

function enter(inside) {
  byId("door").hidden = inside;
  byId("room").hidden = byId("leave").hidden = !inside;
  byId("where").textContent = inside ? wish.room : "";
  document.title = inside ? `${wish.room} · Chat` : "Chat";
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function note(text, className = "") {
  add(element("li", text, `note ${className}`));
}

function add(item) {
  const log = byId("messages");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(item);
  while (log.children.length > MOST_SHOWN) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// A try that waits is made at once when there is reason to hope.
function hope() {
  if (wish && !socket) { wait = FIRST_WAIT; connect(); }
}

byId("join").addEventListener("submit", (event) => {
  event.preventDefault();
  wish = Object.fromEntries(new FormData(event.target));
  sessionStorage.setItem("wish", JSON.stringify(wish));
  wait = FIRST_WAIT;
  enter(true);
  connect();
  byId("text").focus();
});

byId("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (!text || byId("state").dataset.state !== "in") return;
  socket.send(JSON.stringify({ text }));
  byId("text").value = "";
});

byId("leave").addEventListener("click", leave);
byId("retry").addEventListener("click", hope);
addEventListener("online", hope);
document.addEventListener("visibilitychange", () => { if (!document.hidden) hope(); });

// A page that the browser keeps for the way back is not there meanwhile; back again, it finds its socket closed.
addEventListener("pagehide", () => socket?.close());

// A window's own name stays with it; a link may bring another.
const asked = { ...JSON.parse(sessionStorage.getItem("wish") ?? "{}"), ...Object.fromEntries(new URLSearchParams(location.search)) };
for (const key of ["name", "room"]) {
  if (asked[key]) byId("join").elements[key].value = asked[key];
}
