"use strict";
// Optional functions of the pages. Each page works without them.

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Relative times such as "3 min ago" are updated while the page is open.
const relative = (seconds) => {
  if (seconds < 5) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
};
const updateTimes = () => {
  for (const time of all("time[datetime]")) {
    const at = Date.parse(time.dateTime);
    if (!Number.isNaN(at) && time.title === time.dateTime) time.textContent = relative((Date.now() - at) / 1000);
  }
};
setInterval(updateTimes, 15000);

// In a narrow window, the tabs can be scrolled. The current tab is scrolled into view.
const tabs = document.querySelector("header.top nav");
const tab = tabs?.querySelector("[aria-current]");
if (tab) tabs.scrollLeft = tab.offsetLeft - tabs.offsetLeft - 16;

// Copy buttons: data-copy is the text, or data-copy-from is the id of the element with the text.
if (navigator.clipboard) {
  for (const button of all("[data-copy], [data-copy-from]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const name = button.textContent;
      try {
        const { copy, copyFrom } = button.dataset;
        await navigator.clipboard.writeText(copy ?? document.getElementById(copyFrom).textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not copied";
      }
      setTimeout(() => { button.textContent = name; }, 1500);
    });
  }
}

// A form with data-confirm shows this question before it sends an action that cannot be undone.
for (const form of all("form[data-confirm]")) {
  form.addEventListener("submit", (event) => {
    if (!window.confirm(form.dataset.confirm)) event.preventDefault();
  });
}

// Keyboard. Rows are elements with data-row; the link .row-link opens a row, otherwise its first link.
const showShortcuts = () => document.getElementById("shortcuts")?.showModal();
for (const button of all("[data-shortcuts]")) {
  button.hidden = false;
  button.addEventListener("click", showShortcuts);
}
let selected = -1;
const select = (step) => {
  const rows = all("[data-row]");
  if (!rows.length) return;
  rows[selected]?.classList.remove("selected");
  selected = Math.min(Math.max(selected + step, 0), rows.length - 1);
  rows[selected].classList.add("selected");
  rows[selected].scrollIntoView({ block: "nearest" });
  (rows[selected].querySelector(".row-link") ?? rows[selected].querySelector("a"))?.focus({ preventScroll: true });
};
const pages = { o: "/", e: "/executions", b: "/bulks", p: "/predictions", q: "/quarantine", s: "/settings" };
let afterG = 0;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (Date.now() - afterG < 1000 && pages[event.key]) {
    location.assign(pages[event.key]);
    return;
  }
  afterG = 0;
  if (event.key === "/") {
    // A page without a search box searches the executions.
    const search = document.querySelector("main input[type=search]");
    if (search) search.select();
    else document.getElementById("search")?.showModal();
  } else if (event.key === "j") select(1);
  else if (event.key === "k") select(-1);
  else if (event.key === "?") showShortcuts();
  else if (event.key === "g") afterG = Date.now();
  else return;
  if (event.key !== "g") event.preventDefault();
});
