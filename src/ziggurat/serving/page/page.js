"use strict";
const at = (id) => document.getElementById(id);
const MOST_ROWS = 100;

function say(text, wrong = false) {
  at("state").textContent = text;
  at("state").className = wrong ? "wrong" : "";
}

async function about() {
  const card = await (await fetch(`v2/models/${encodeURIComponent(at("model").value)}`)).json();
  const known = card.parameters || {};
  at("about").textContent = card.error || `${known.task}, ${known.model}: ${(known.classes || []).length} classes`;
}

async function begin() {
  const models = await (await fetch("v2/repository/index", { method: "POST" })).json();
  for (const { name } of models) at("model").add(new Option(name, name));
  await about();
}

// Rows are shown as text: names of classes and files are whatever somebody has called them.
function line(row) {
  const where = row.bbox ? row.bbox.map((one) => one.toFixed(1)).join(", ") : "";
  const cells = [row.category ?? "", row.score?.toFixed(3) ?? "", where];
  const tr = document.createElement("tr");
  for (const text of cells) tr.insertCell().textContent = text;
  return tr;
}

function lines(row) {
  if (row.top) return row.top.map(line);
  if (row.pixels) return Object.entries(row.pixels).map(([category, count]) => {
    const tr = line({ category });
    tr.cells[2].textContent = `${count} pixels`;
    return tr;
  });
  return [line(row)];
}

async function predict(file) {
  say(`computing ${file.name} ...`);
  at("picture").hidden = at("rows").hidden = true;
  const query = new URLSearchParams({ model: at("model").value, output: "all", name: file.name });
  const answer = await fetch(`predict?${query}`, { method: "POST", body: file });
  const found = await answer.json();
  if (!answer.ok) return say(found.error, true);
  at("picture").src = `data:${found.picture_type};base64,${found.picture}`;
  at("picture").alt = `predictions on ${file.name}`;
  await at("picture").decode();
  at("rows").tBodies[0].replaceChildren(...found.predictions.flatMap(lines).slice(0, MOST_ROWS));
  at("picture").hidden = at("rows").hidden = false;
  say(`${found.predictions.length} in ${file.name}`);
}

function take(files) {
  if (files.length) predict(files[0]).catch((error) => say(String(error), true));
}

at("model").addEventListener("change", about);
at("file").addEventListener("change", (event) => take(event.target.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
begin().catch((error) => say(String(error), true));
