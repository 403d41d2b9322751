
// A result image that cannot be loaded is replaced by a text within its link. Errors of images do not bubble.
const showAsMissing = (image) => {
  const text = document.createElement("span");
  text.className = image.closest(".thumb") ? "thumb-symbol" : "no-image";
  text.textContent = image.closest(".thumb") ? "\u2715" : "The image cannot be loaded";
  image.replaceWith(text);
};
document.addEventListener("error", (event) => {
  if (event.target.matches?.(".media img, .thumb img")) showAsMissing(event.target);
}, true);
for (const image of all(".media img, .thumb img")) if (image.complete && !image.naturalWidth) showAsMissing(image);

// Live parts: after a change, the content of elements with data-live is replaced by the content of a fresh page. The rest of
// the page stays.
// data-bulk limits this to changes of a bulk. A part with data-pending waits for the result of an action.
const live = all("[data-live]");
if (live.length) {
  const bulk = live.find((part) => part.dataset.bulk)?.dataset.bulk;
  let after = "latest";
  const refresh = async () => {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (!answer.ok) return false;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const parts = new Map(all("[data-live]", fresh).map((part) => [part.dataset.live, part]));
    for (const part of all("[data-live]")) {
      const other = parts.get(part.dataset.live);
      if (other) part.toggleAttribute("data-pending", other.hasAttribute("data-pending"));
      if (other && other.innerHTML !== part.innerHTML) part.replaceChildren(...other.childNodes);
    }
    updateTimes();
    return true;
  };
  const poll = async () => {
    if (document.hidden) return;
    const first = after === "latest";
    const page = await changesAfter(after);
    if (!page) return;
    // The first poll starts at the latest change, which can be newer than the page.
    const isStale = first || document.querySelector("[data-pending]") || page.items.some((change) => !bulk || change.bulk_id === bulk);
    if (isStale && !await refresh().catch(() => false)) return; // The next poll tries again.
    after = page.next_after;
  };
  poll();
  setInterval(poll, 3000);
}
