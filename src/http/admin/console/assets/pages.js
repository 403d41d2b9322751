
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

// A page of the change feed; undefined if it cannot be read, because the receiver restarts or the network is away. The next
// poll tries again.
const changesAfter = async (after) => {
  try {
    const limit = after === "latest" ? 1 : 1000;
    const answer = await fetch(`/api/v1/changes?after=${after}&limit=${limit}`, { headers: { accept: "application/json" } });
    return answer.ok ? await answer.json() : undefined;
  } catch {
    return undefined;
  }
};

// New rows: an element with data-new-rows shows the number of executions that changed since the page was read, and links to the
// page. The list does not move. data-status, data-workflow and data-bulk count only matching changes.
const classes = { completed: ["completed", "succeeded", "success"] };
const terminal = [...classes.completed, "failed", "cancelled"];
const notices = all("[data-new-rows]").map((notice) => {
  const { status, workflow, bulk } = notice.dataset;
  const seen = new Set();
  const hasStatus = (given) => (status === "running" ? !terminal.includes(given) : (classes[status] ?? [status]).includes(given));
  const matches = (change) => (!status || hasStatus(change.status))
    && (!workflow || change.workflow_id === workflow) && (!bulk || change.bulk_id === bulk);
  return (changes) => {
    for (const change of changes) if (seen.size < 1000 && change.execution_id && matches(change)) seen.add(change.execution_id);
    if (!seen.size) return;
    notice.hidden = false;
    notice.textContent = seen.size > 999 ? "More than 999 new or changed: show" : `${seen.size} new or changed: show`;
  };
});

// Live parts: after a change, the content of elements with data-live is replaced by the content of a fresh page. The rest of
// the page stays. data-bulk limits this to changes of a bulk. A part with data-pending waits for the result of an action.
const live = all("[data-live]");
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

// Both follow the change feed. data-after is the number of the latest change when the page was read.
if (live.length || notices.length) {
  const bulk = live.find((part) => part.dataset.bulk)?.dataset.bulk;
  let after = document.querySelector("[data-after]")?.dataset.after ?? "latest";
  const poll = async () => {
    if (document.hidden) return;
    const first = after === "latest";
    const page = await changesAfter(after);
    if (!page) return;
    // The latest change can be newer than the page.
    const isStale = first || document.querySelector("[data-pending]") || page.items.some((change) => !bulk || change.bulk_id === bulk);
    if (live.length && isStale && !await refresh().catch(() => false)) return; // The next poll tries again.
    for (const show of notices) show(page.items);
    after = page.next_after;
  };
  poll();
  setInterval(poll, 3000);
}
