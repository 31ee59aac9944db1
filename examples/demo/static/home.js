"use strict";

const byId = (id) => document.getElementById(id);

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function place(thread) {
  if (!thread) return element("span", "…", "soft");
  return element("span", thread, thread.startsWith("bridges") ? "tag pool" : "tag loop");
}

function fill(row, ...cells) {
  row.replaceChildren(...cells.map((cell) => {
    const td = document.createElement("td");
    td.append(cell);
    return td;
  }));
  return row;
}

function size(bytes) {
  return bytes < 10_000 ? `${bytes} bytes` : `${(bytes / 1e6).toFixed(1)} MB`;
}

async function readStream(path, onChunk) {
  const leave = new AbortController();
  const response = await fetch(path, { signal: leave.signal });
  const reader = response.body.getReader();
  let chunk;
  while (!(chunk = await reader.read()).done) {
    if (onChunk(chunk.value) === "enough") { leave.abort(); break; }
  }
  return response;
}

// A window of the chat without the window: waits for a message of a type.
function visitor(path, name) {
  const address = new URL(path, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  address.search = new URLSearchParams({ name, room: "check" });
  const socket = new WebSocket(address);
  const told = (type) => new Promise((resolve, reject) => {
    socket.addEventListener("message", (event) => {
      const message = JSON.parse(event.data);
      if (message.type === type) resolve(message);
    });
    socket.addEventListener("close", (event) => reject(new Error(`closed with ${event.code}`)));
  });
  return { socket, told };
}

async function chat(path) {
  const ada = visitor(path, "Ada");
  const { thread } = await ada.told("welcome");
  const ben = visitor(path, "Ben");
  await ben.told("welcome");
  const heard = ben.told("message"), begun = performance.now();
  ada.socket.send(JSON.stringify({ text: "hello" }));
  const { name, text } = await heard;
  const took = performance.now() - begun;
  for (const { socket } of [ada, ben]) socket.close();
  return [{ headers: new Headers({ "x-ran-in": thread }) }, `“${text}” from ${name} to Ben in ${took.toFixed(1)} ms`];
}

// Each returns [response, outcome]; a wrong outcome throws.
const checks = [
  ["New JSON endpoint", "GET /api/hello", async () => {
    const response = await fetch("/api/hello?name=demo");
    return [response, JSON.stringify(await response.json())];
  }],
  ["Flask page with a session", "GET /legacy/", async () => {
    const response = await fetch("/legacy/");
    const visits = (await response.text()).match(/id="visits">(\d+)</)[1];
    return [response, `visit ${visits} of this browser`];
  }],
  ["Redirect inside the mount", "GET /legacy/home", async () => {
    const response = await fetch("/legacy/home");
    const end = new URL(response.url).pathname;
    if (end !== "/legacy/") throw new Error(`led to ${end}`);
    return [response, `led to ${end}`];
  }],
  ["Upload, hashed by Flask", "POST /legacy/upload", async () => {
    const data = new Uint8Array(4_000_000).map((_, index) => index * 31);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
    const wanted = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const form = new FormData();
    form.append("file", new Blob([data]), "four-megabytes.bin");
    const response = await fetch("/legacy/upload", { method: "POST", body: form });
    if (!(await response.text()).includes(wanted)) throw new Error("another SHA-256");
    return [response, `4.0 MB, SHA-256 ${wanted.slice(0, 12)}… as computed here`];
  }],
  ["CSV export, streamed", "GET /legacy/export.csv", async (show) => {
    let bytes = 0, chunks = 0;
    const response = await readStream("/legacy/export.csv?rows=50000", (chunk) => {
      bytes += chunk.length;
      chunks += 1;
      show(`${size(bytes)} so far`);
    });
    return [response, `${size(bytes)} in ${chunks} pieces as they came`];
  }],
  ["Server-sent events", "GET /legacy/events", async (show) => {
    const begun = performance.now(), times = [];
    const response = await readStream("/legacy/events", () => {
      times.push(`${((performance.now() - begun) / 1000).toFixed(1)} s`);
      show(`events after ${times.join(", ")}`);
      return times.length === 4 ? "enough" : "more";
    });
    return [response, `events after ${times.join(", ")}`];
  }],
  ["Chat, by Starlette", "WS /chat/starlette/talk", () => chat("/chat/starlette/talk")],
  ["Chat, by Flask-Sock", "WS /chat/flask/talk", () => chat("/chat/flask/talk")],
  ["Unknown page", "GET /legacy/nothing-here", async () => {
    const response = await fetch("/legacy/nothing-here");
    if (response.status !== 404) throw new Error(`status ${response.status}`);
    return [response, "404 from Flask"];
  }],
];

async function runChecks() {
  byId("again").disabled = true;
  const rows = checks.map(([what, request]) => fill(element("tr"), what, element("code", request), place(), "…"));
  byId("checks").replaceChildren(...rows);
  for (const [index, [what, request, check]] of checks.entries()) {
    const show = (thread, outcome, className) => fill(
      rows[index], what, element("code", request), place(thread), element("span", outcome, className));
    try {
      const [response, outcome] = await check((progress) => show(undefined, progress, "soft"));
      show(response.headers.get("x-ran-in"), `✓ ${outcome}`, "good");
    } catch (error) {
      show(undefined, `✗ ${error.message}`, "bad");
    }
  }
  byId("again").disabled = false;
}

function showStatus(status) {
  byId("figures").replaceChildren(...Object.entries(status.pool).map(([name, value]) => {
    const figure = element("div");
    figure.append(element("b", value), element("span", name));
    return figure;
  }));
  byId("slots").replaceChildren(...Array.from({ length: status.max_threads }, (_, index) =>
    element("i", "", index < status.pool.busy ? "busy" : index < status.pool.threads ? "idle" : "")));
  byId("slots-note").textContent =
    `At most ${status.max_threads} threads, started on demand: filled is busy, outlined is idle, dashed not started.`;
  if (status.modern) {
    byId("modern").href = status.modern;
    byId("modern-chat").href = new URL("chat/", status.modern);
  }
  const facts = {
    "Event loop": `${status.loop} in ${status.loop_thread}`,
    "Threads": status.threads.join(", "),
    "Process": `${status.process}, Python ${status.python}, up ${Math.round(status.uptime)} s`,
    "Versions": Object.entries(status.versions).map((pair) => pair.join(" ")).join(", "),
  };
  byId("process").replaceChildren(...Object.entries(facts).flatMap(([name, text]) =>
    [element("dt", name), element("dd", text, "mono")]));
  byId("requests").replaceChildren(...status.requests.reverse().map((entry) => fill(
    element("tr"), String(entry.number), element("code", `${entry.method} ${entry.path}`), place(entry.thread),
    String(entry.status ?? ""), entry.seconds === null ? "running" : `${(entry.seconds * 1000).toFixed(1)} ms`)));
}

async function poll() {
  try {
    showStatus(await (await fetch("/api/status")).json());
  } catch {
    byId("slots-note").textContent = "The server does not answer; it may have been stopped.";
  }
  setTimeout(poll, 1000);
}

byId("again").addEventListener("click", runChecks);
runChecks();
poll();
