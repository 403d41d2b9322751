"use strict";
// Shows openapi.json: each path with its parameters, a curl command, and a button that sends the request. Texts of the
// document and of responses are only inserted as text, never as HTML.

const add = (parent, tag, text = "", attributes = {}) => {
  const element = parent.appendChild(document.createElement(tag));
  if (text) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

// Follows a $ref, or takes the choice that is not null.
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

function showFields(api, parent, schema, depth = 0) {
  const fields = Object.entries(fieldsOf(api, schema));
  if (!fields.length) return;
  const table = add(parent, "table");
  for (const [name, field] of fields) {
    const row = add(table, "tr");
    add(add(row, "td"), "code", name);
    add(row, "td", kindOf(api, field));
    const text = add(row, "td", field.description ?? resolved(api, field).description ?? "");
    if (depth < 2) showFields(api, text, resolved(api, field).items ?? field, depth + 1);
  }
}

function showInput(api, parent, { name, description, required, schema, example }) {
  const label = add(parent, "label");
  add(label, "code", required ? `${name} *` : name);
  const choices = resolved(api, schema).enum;
  const input = add(label, choices ? "select" : "input", "", { name, placeholder: example ?? "" });
  for (const choice of choices ? ["", ...choices] : []) add(input, "option", choice);
  add(label, "small", [description, kindOf(api, schema)].filter(Boolean).join(" · "));
  return input;
}

function showOperation(api, parent, path, method, operation, server) {
  const details = add(parent, "details");
  const summary = add(details, "summary");
  add(summary, "code", `${method.toUpperCase()} ${path}`);
  add(summary, "span", operation.summary ?? "");
  if (operation.description) add(details, "p", operation.description);
  const form = add(details, "form");
  const inputs = (operation.parameters ?? []).map((parameter) => [parameter, showInput(api, form, parameter)]);
  const body = operation.requestBody?.content["application/json"];
  if (body) showFields(api, form, body.schema);
  const curl = add(form, "pre");

  const address = () => {
    const query = new URLSearchParams();
    let filled = path;
    for (const [{ name, in: where }, { value }] of inputs) {
      if (where === "path") filled = filled.replace(`{${name}}`, encodeURIComponent(value));
      else if (value) query.append(name, value);
    }
    return filled + (query.size ? `?${query}` : "");
  };
  const update = () => {
    const base = server ?? location.origin;
    const data = body ? ` --data-binary @execution.json` : "";
    curl.textContent = `curl '${base}${address().replaceAll("'", "%27")}'${data}`;
  };
  form.addEventListener("input", update);
  update();

  const [success] = Object.entries(operation.responses).filter(([status]) => status.startsWith("2"));
  const content = success?.[1].content ?? {};
  if (!server && content["application/json"]) {
    add(form, "button", "Send", { type: "submit" });
    const answer = add(details, "pre", "", { hidden: "" });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      answer.hidden = false;
      answer.textContent = "…";
      try {
        const response = await fetch(address().slice(1), { headers: { accept: "application/json" } });
        const text = await response.text();
        let shown = text;
        try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON */ }
        answer.textContent = `${response.status} ${response.statusText}\n\n${shown}`;
      } catch (error) {
        answer.textContent = String(error);
      }
    });
  } else {
    form.addEventListener("submit", (event) => event.preventDefault());
  }
  const answers = add(details, "table");
  for (const [status, { description, content = {} }] of Object.entries(operation.responses)) {
    const row = add(answers, "tr");
    add(add(row, "td"), "code", status);
    const text = add(row, "td", [description, Object.keys(content).join(", ")].filter(Boolean).join(" · "));
    if (!status.startsWith("2")) continue;
    const [{ schema, example } = {}] = Object.values(content);
    showFields(api, text, schema);
    if (example) add(text, "pre", typeof example === "string" ? example : JSON.stringify(example, null, 2));
  }
}

async function show() {
  const about = document.getElementById("about");
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error(`openapi.json: ${response.status}`);
  const api = await response.json();
  about.textContent = `${api.info.description} Version ${api.info.version}. `;
  add(about, "a", "openapi.json", { href: "openapi.json" });
  const sections = new Map();
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of ["get", "post"].filter((one) => item[one])) {
      const [tag] = item[method].tags;
      if (!sections.has(tag)) {
        sections.set(tag, add(document.querySelector("main"), "section"));
        add(sections.get(tag), "h2", tag);
      }
      showOperation(api, sections.get(tag), path, method, item[method], item.servers?.[0].url);
    }
  }
}

show().catch((error) => { document.getElementById("about").textContent = String(error); });
