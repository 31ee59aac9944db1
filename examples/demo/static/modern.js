"use strict";

const byId = (id) => document.getElementById(id);

function element(name, content, className) {
  const made = document.createElement(name);
  if (content !== undefined) made.append(content);
  if (className) made.className = className;
  return made;
}

async function json(path, options) {
  const response = await fetch(path, options);
  if (!response.ok) throw new Error(`status ${response.status}`);
  return response.json();
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// Each returns its outcome; a wrong one throws.
const checks = [
  ["State of the lifespan, threads", "GET /where", async () => {
    const where = await json("/where");
    byId("where").replaceChildren(...Object.entries(where).flatMap(([name, value]) => [
      element("dt", name),
      element("dd", typeof value === "object" ? Object.entries(value).map((pair) => pair.join(" ")).join(", ")
        : String(value), "mono"),
    ]));
    return `async code in ${where["async code"]}, opened in ${where["lifespan begun in"]}`;
  }],
  ["Upload, hashed while it arrives", "POST /upload", async () => {
    const data = new Uint8Array(4_000_000).map((_, index) => index * 31);
    const answer = await json("/upload", { method: "POST", body: data });
    if (answer.size !== data.length) throw new Error(`${answer.size} bytes`);
    return `4.0 MB in ${answer.pieces} pieces, SHA-256 ${answer.sha256.slice(0, 12)}…`;
  }],
  ["CSV, streamed", "GET /numbers.csv", async () => {
    const reader = (await fetch("/numbers.csv")).body.getReader();
    let bytes = 0, pieces = 0, chunk;
    while (!(chunk = await reader.read()).done) { bytes += chunk.value.length; pieces += 1; }
    return `${(bytes / 1e6).toFixed(1)} MB in ${pieces} pieces as they came`;
  }],
  ["Background task after the response", "POST /letters", async () => {
    const text = `letter ${Date.now()}`;
    const begun = performance.now();
    await json(`/letters?text=${encodeURIComponent(text)}`, { method: "POST" });
    const answered = Math.round(performance.now() - begun);
    while (!(await json("/letters")).includes(text)) {
      if (performance.now() - begun > 5000) throw new Error("not posted after 5 s");
      await pause(50);
    }
    return `answered after ${answered} ms, posted after ${Math.round(performance.now() - begun)} ms`;
  }],
];

async function runChecks() {
  byId("again").disabled = true;
  byId("checks").replaceChildren();
  for (const [what, request, check] of checks) {
    const outcome = element("td", "…");
    const row = element("tr");
    row.append(element("td", what), element("td", element("code", request)), outcome);
    byId("checks").append(row);
    try {
      outcome.replaceChildren(element("span", `✓ ${await check()}`, "good"));
    } catch (error) {
      outcome.replaceChildren(element("span", `✗ ${error.message}`, "bad"));
    }
  }
  byId("again").disabled = false;
}

function show(kind, text) {
  byId("events").prepend(element("li", `${new Date().toLocaleTimeString()}  ${kind}  ${text}`));
  while (byId("events").children.length > 8) byId("events").lastChild.remove();
}

const source = new EventSource("/events");
for (const kind of ["thread", "tick"]) {
  source.addEventListener(kind, (event) => show(kind, JSON.parse(event.data)));
}
source.addEventListener("error", () => show("connection", "lost, trying again"));
byId("again").addEventListener("click", runChecks);
runChecks();
