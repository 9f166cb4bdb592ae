"use strict";
// Asks the server for what the address bar says (?text=… or ?of=…&like=…), or with a picture that was given; shows the
// answer. What comes from data is only ever set as text.
const SILENT = "the server gives no answer: has it been ended, or does its terminal show an error?";
const part = (id) => document.getElementById(id);
const form = part("ask");
const text = part("text");
let about = {};
let picture = null; // a file that is searched with; it has no place in the address bar
let asked = new AbortController();

function made(tag, kind, words) {
  const element = document.createElement(tag);
  element.className = kind;
  element.textContent = words;
  return element;
}

function say(status, used = "", unused = "", problem = false) {
  part("status").textContent = status;
  part("status").className = problem ? "problem" : "";
  part("used").textContent = used;
  part("unused").textContent = unused;
}

function showQuery(address) {
  const image = part("query");
  if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  image.hidden = !address;
  if (address) image.src = address;
  else image.removeAttribute("src");
}

function item(one, rank, find) {
  const link = made("a", "", "");
  const next = about.items && !about.items.pictures ? "texts" : "pictures";
  link.href = "?" + new URLSearchParams({ of: find, like: one.item, find: next });
  link.title = `${next} near this one`;
  if (one.picture) {
    const image = document.createElement("img");
    image.loading = "lazy";
    image.alt = "";
    image.src = one.picture;
    link.append(image);
  }
  const place = made("span", "place", "");
  place.append(made("span", "rank", String(rank)), made("b", "distance", `${one.distance} bit${one.distance === 1 ? "" : "s"}`));
  link.append(place, made("span", "caption", one.caption || one.name));
  if (one.caption) link.append(made("span", "name", one.name));
  const row = document.createElement("li");
  row.append(link);
  return row;
}

async function answer(question, find) {
  asked.abort();
  asked = new AbortController();
  part("found").className = "asking";
  say("searching …");
  try {
    const options = { signal: asked.signal };
    if (picture) Object.assign(options, { method: "POST", body: picture });
    const reply = await fetch("api/search?" + question, options);
    const found = await reply.json();
    part("found").className = "";
    if (found.query_picture) showQuery(found.query_picture);
    part("found").replaceChildren(...(found.found || []).map((one, place) => item(one, place + 1, find)));
    const unused = Object.entries(found.left_out || {}).map(([word, why]) => `${word} (${why})`).join(", ");
    const used = (found.used || []).join(", ");
    const problem = found.problem || found.error || "";
    say(problem || `the ${found.found.length} nearest ${find} for ${found.query}`,
        used && `words used: ${used}`, unused && `words not used: ${unused}`, Boolean(problem));
  } catch (error) {
    if (error.name === "AbortError") return; // another question came
    part("found").className = "";
    part("found").replaceChildren();
    say(SILENT, "", "", true);
  }
  document.documentElement.dataset.answers = Number(document.documentElement.dataset.answers || 0) + 1;
}

function chosen() {
  return form.elements.find.value;
}

function ask() { // what the address bar says
  const question = new URLSearchParams(location.search);
  const find = question.get("find") || chosen();
  for (const radio of form.elements.find) radio.checked = radio.value === find;
  question.set("find", chosen());
  picture = null;
  part("file").value = "";
  text.value = question.get("text") || "";
  showQuery("");
  if (question.get("text") || question.has("like")) answer(question, chosen());
  else {
    asked.abort();
    part("found").replaceChildren();
    say("");
  }
}

function go(question) {
  history.pushState(null, "", "?" + new URLSearchParams(question));
  ask();
}

function give(file) { // a picture
  if (!about.sees) return;
  if (file.size > about.most_bytes) {
    say(`the picture has ${file.size.toLocaleString()} bytes, but may have at most ${about.most_bytes.toLocaleString()}`, "", "", true);
    return;
  }
  if (location.search) history.pushState(null, "", location.pathname);
  picture = file;
  text.value = "";
  showQuery(URL.createObjectURL(file));
  answer(new URLSearchParams({ find: chosen() }), chosen());
}

function takeFrom(transfer, event) {
  const file = [...(transfer ? transfer.files : [])][0];
  if (!file) return;
  event.preventDefault();
  give(file);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (text.value.trim()) go({ text: text.value.trim(), find: chosen() });
});
form.addEventListener("change", (event) => {
  if (event.target.name !== "find") return;
  if (picture) answer(new URLSearchParams({ find: chosen() }), chosen());
  else if (location.search) {
    const question = new URLSearchParams(location.search);
    question.set("find", chosen());
    go(question);
  }
});
part("file").addEventListener("change", (event) => event.target.files[0] && give(event.target.files[0]));
document.addEventListener("paste", (event) => takeFrom(event.clipboardData, event));
document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("over");
});
for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => document.body.classList.remove("over"));
document.addEventListener("drop", (event) => takeFrom(event.dataTransfer, event));
window.addEventListener("popstate", ask);

async function start() {
  try {
    about = await (await fetch("api/about")).json();
  } catch {
    say(SILENT, "", "", true);
    return;
  }
  document.title = `cmh search: ${about.target}`;
  const counts = Object.entries(about.items).map(([kind, n]) => `${n.toLocaleString()} ${kind}`).join(" and ");
  part("about").textContent = `${about.model}; ${counts}, nearest by Hamming distance`;
  text.disabled = !about.reads;
  part("drop").hidden = !about.sees;
  part("cannot").hidden = !about.cannot;
  part("cannot").textContent = about.cannot;
  const radios = [...form.elements.find];
  for (const radio of radios) radio.disabled = !(radio.value in about.items);
  if (radios.find((radio) => radio.checked).disabled) radios.find((radio) => !radio.disabled).checked = true;
  if (location.search) ask();
}

start();
