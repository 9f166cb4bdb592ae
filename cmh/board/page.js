"use strict";
// What a cell sorts by: all its numbers in order ("2–9", "24 × 30"), or its words; an empty one comes last either way.
const numbers = (text) => (text.match(/\d+(\.\d+)?/g) || []).map(Number);
const keyOf = (cell, word) => (word ? cell.textContent.trim() : numbers(cell.textContent));
function compare(a, b, word) {
  if (word) return a.localeCompare(b, undefined, { numeric: true });
  for (let at = 0; at < Math.min(a.length, b.length); at++) if (a[at] !== b[at]) return a[at] - b[at];
  return a.length - b.length;
}
function sort(table, head) {
  const at = head.cellIndex, word = head.classList.contains("word");
  const now = head.getAttribute("aria-sort");
  const down = now ? now === "ascending" : head.dataset.first === "descending";
  const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row.cells[at], word), row]);
  rows.sort(([a], [b]) => (!a.length - !b.length) || (down ? -1 : 1) * compare(a, b, word));
  table.tBodies[0].append(...rows.map(([, row]) => row));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
}
for (const table of document.querySelectorAll("table")) {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    if (/^(i→t|t→i|mean)/.test(button.textContent)) head.dataset.first = "descending"; // the best first
    button.addEventListener("click", () => sort(table, head));
  }
}
const form = document.getElementById("filter"), field = (name) => document.getElementById(name).value;
function filter() {
  const words = field("words").toLowerCase().split(/\s+/).filter(Boolean), bits = field("bits"), selection = field("selection");
  let shown = 0, all = 0;
  for (const section of document.querySelectorAll("section.table")) {
    let here = 0;
    for (const row of section.querySelectorAll("tbody tr")) {
      const text = row.dataset.words.toLowerCase();
      row.hidden = !((!bits || section.dataset.bits === bits) && (!selection || row.dataset.selection === selection) && words.every((word) => text.includes(word)));
      here += !row.hidden;
      all += 1;
    }
    section.hidden = !here;
    shown += here;
  }
  document.getElementById("count").textContent = `${shown} of ${all} rows`;
}
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(filter));
form.hidden = false;
filter();
