"use strict";
// Shows /openapi.json: each path with its parameters, a curl command, and a button that sends the request. Texts of the
// document and of responses are only inserted as text, never as HTML.

const add = (parent, tag, text = "", attributes = {}) => {
  const element = parent.appendChild(document.createElement(tag));
  if (text) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

// Adds text in which parts between backticks are code.
const addProse = (parent, text = "") => {
  text.split("`").forEach((part, at) => {
    if (at % 2) add(parent, "code", part);
    else parent.append(part);
  });
  return parent;
};

// Follows a $ref, or selects the first choice that is not null.
const resolved = (api, schema = {}) => {
  if (schema.$ref) return resolved(api, schema.$ref.split("/").slice(1).reduce((at, key) => at[key], api));
  const choices = schema.oneOf ?? schema.anyOf;
  return choices ? resolved(api, choices.find((choice) => choice.type !== "null")) : schema;
};

const fieldsOf = (api, schema) => {
  const { allOf = [], properties = {} } = resolved(api, schema);
  return Object.assign({}, ...allOf.map((part) => fieldsOf(api, part)), properties);
};

const kindOf = (api, schema) => {
  const { type, format, items } = resolved(api, schema);
  const kind = format ?? [type].flat().filter((one) => one && one !== "null").join(" or ");
  return items ? `list of ${kindOf(api, items) || "objects"}` : kind;
};

// The fields of a schema as a table. Fields of fields are folded.
function showFields(api, parent, schema, depth = 0) {
  const fields = Object.entries(fieldsOf(api, schema));
  if (!fields.length) return;
  const table = add(parent, "dl", "", { class: "fields" });
  for (const [name, field] of fields) {
    const term = add(table, "dt");
    add(term, "code", name);
    add(term, "small", kindOf(api, field));
    const text = add(table, "dd");
    addProse(text, field.description ?? resolved(api, field).description ?? "");
    const inner = resolved(api, field).items ?? field;
    if (depth < 3 && Object.keys(fieldsOf(api, inner)).length) {
      const folded = add(text, "details");
      add(folded, "summary", "Fields");
      folded.addEventListener("toggle", () => {
        if (folded.open && folded.children.length === 1) showFields(api, folded, inner, depth + 1);
      });
    }
  }
}

const PERIODS = ["1h", "24h", "7d", "30d", "today"];

// An input with its default filled in. A parameter with its default is not sent.
function showInput(api, parent, { name, description, required, schema, example }) {
  const row = add(parent, "div", "", { class: "parameter" });
  const label = add(row, "label");
  add(label, "code", required ? `${name} *` : name);
  const { enum: choices, minimum, maximum, default: standard = schema?.default } = resolved(api, schema);
  const input = choices ? add(label, "select", "", { name }) : add(label, "input", "", { name, placeholder: example ?? "" });
  if (minimum !== undefined || maximum !== undefined) {
    input.type = "number";
    if (minimum !== undefined) input.min = minimum;
    if (maximum !== undefined) input.max = maximum;
  }
  for (const choice of choices ? ["", ...choices] : []) add(input, "option", choice || "—", { value: choice });
  if (standard !== undefined) input.value = standard;
  const text = add(row, "div");
  addProse(add(text, "small"), [description, kindOf(api, schema)].filter(Boolean).join(" · "));
  if (name === "from") {
    const chips = add(text, "div", "", { class: "chips" });
    for (const period of PERIODS) {
      const chip = add(chips, "button", period, { type: "button", class: "chip" });
      chip.addEventListener("click", () => {
        input.value = period;
        input.dispatchEvent(new Event("input", { bubbles: true }));
      });
    }
  }
  return { input, standard: standard === undefined ? "" : String(standard) };
}

const PAGES = {
  execution_id: "/executions/",
  latest_execution_id: "/executions/",
  prediction_id: "/predictions/",
  latest_prediction_id: "/predictions/",
  bulk_id: "/bulks/",
};

// Indented JSON. Identifiers link to their pages; URLs of http and https are links.
function showJson(parent, text) {
  let rest = text;
  const pattern = /"([a-z_]+)": ("(?:[^"\\]|\\.)*")|("https?:\/\/(?:[^"\\]|\\.)*")/;
  for (let found = pattern.exec(rest); found; found = pattern.exec(rest)) {
    const [whole, key, value, url] = found;
    const shown = value ?? url;
    parent.append(rest.slice(0, found.index), whole.slice(0, whole.length - shown.length));
    const plain = JSON.parse(shown);
    if (key in PAGES && plain) add(parent, "a", shown, { href: PAGES[key] + encodeURIComponent(plain) });
    else if (/^https?:/.test(plain)) add(parent, "a", shown, { href: plain, rel: "noreferrer noopener", target: "_blank" });
    else parent.append(shown);
    rest = rest.slice(found.index + whole.length);
  }
  parent.append(rest);
}

function showOperation(api, parent, path, method, operation, server) {
  const details = add(parent, "details", "", { class: "card operation", id: operation.operationId });
  const summary = add(details, "summary");
  add(summary, "span", method.toUpperCase(), { class: method === "get" ? "badge run" : "badge ok" });
  add(summary, "code", path);
  addProse(add(summary, "span", "", { class: "soft" }), operation.summary);
  if (operation.description) addProse(add(details, "p"), operation.description);
  const form = add(details, "form");
  const inputs = (operation.parameters ?? []).map((parameter) => [parameter, showInput(api, form, parameter)]);
  const body = operation.requestBody?.content["application/json"];
  if (body) {
    const folded = add(form, "details");
    add(folded, "summary", "Body");
    showFields(api, folded, body.schema);
  }
  const command = add(form, "div", "", { class: "with-copy" });
  const curl = add(command, "pre", "", { class: "block" });
  const copy = add(command, "button", "Copy", { type: "button", class: "copy plain" });
  copy.hidden = !navigator.clipboard;
  copy.addEventListener("click", () => navigator.clipboard.writeText(curl.textContent).then(() => { copy.textContent = "Copied"; }));

  const address = () => {
    const query = new URLSearchParams();
    let filled = path;
    for (const [{ name, in: where }, { input, standard }] of inputs) {
      if (where === "path") filled = filled.replace(`{${name}}`, encodeURIComponent(input.value));
      else if (where === "query" && input.value && input.value !== standard) query.append(name, input.value);
    }
    return filled + (query.size ? `?${query}` : "");
  };
  const [success] = Object.entries(operation.responses).filter(([status]) => status.startsWith("2"));
  const content = success?.[1].content ?? {};
  const sendable = !server && method === "get";
  const actions = add(form, "div", "", { class: "actions" });
  if (sendable && content["application/json"]) add(actions, "button", "Send", { type: "submit", class: "primary" });
  const download = sendable && !content["text/event-stream"] ? add(actions, "a", "Download", { class: "button", download: "" }) : null;
  const update = () => {
    const base = server ?? location.origin;
    const data = body ? " --data-binary @body.json" : method === "post" ? " -X POST" : "";
    curl.textContent = `curl '${base}${address().replaceAll("'", "%27")}'${data}`;
    if (download) download.href = address();
  };
  form.addEventListener("input", update);
  update();
  const answer = add(details, "pre", "", { class: "json", hidden: "", tabindex: "0" });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!sendable) return;
    answer.hidden = false;
    answer.textContent = "…";
    try {
      const response = await fetch(address(), { headers: { accept: "application/json" } });
      const text = await response.text();
      let shown = text;
      try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON */ }
      answer.textContent = `${response.status} ${response.statusText}\n\n`;
      showJson(answer, shown);
    } catch (error) {
      answer.textContent = String(error);
    }
  });

  const answers = add(details, "details");
  add(answers, "summary", "Responses");
  answers.addEventListener("toggle", () => {
    if (!answers.open || answers.children.length > 1) return;
    for (const [status, { description, content: kinds = {} }] of Object.entries(operation.responses)) {
      const row = add(answers, "section");
      const head = add(row, "p");
      add(head, "span", status, { class: status.startsWith("2") ? "badge ok" : "badge muted" });
      head.append(" ");
      addProse(head, [description, Object.keys(kinds).join(", ")].filter(Boolean).join(" · "));
      if (!status.startsWith("2")) continue;
      const [{ schema, example } = {}] = Object.values(kinds);
      showFields(api, row, schema);
      if (example) {
        const folded = add(row, "details");
        add(folded, "summary", "Example");
        add(folded, "pre", typeof example === "string" ? example : JSON.stringify(example, null, 2), { class: "block", tabindex: "0" });
      }
    }
  });
}

async function show() {
  const response = await fetch("/openapi.json");
  if (!response.ok) throw new Error(`openapi.json: ${response.status}`);
  const api = await response.json();
  const about = document.getElementById("about");
  about.textContent = "";
  addProse(about, `${api.info.description} Version ${api.info.version}.`);
  const sections = new Map();
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of ["get", "post"].filter((one) => item[one])) {
      const [tag] = item[method].tags;
      if (!sections.has(tag)) {
        const id = `section-${sections.size}`;
        const section = add(document.getElementById("operations"), "section", "", { id });
        add(section, "h2", tag);
        addProse(add(section, "p", "", { class: "soft" }), api.tags?.find((one) => one.name === tag)?.description);
        add(document.getElementById("sections"), "a", tag, { class: "chip", href: `#${id}` });
        sections.set(tag, section);
      }
      showOperation(api, sections.get(tag), path, method, item[method], item.servers?.[0].url);
    }
  }
  const wanted = document.getElementById(location.hash.slice(1));
  if (wanted?.matches("details")) wanted.open = true;
  wanted?.scrollIntoView();
}

show().catch((error) => { document.getElementById("about").textContent = String(error); });
