// check_client.js FILE ADMIN WEBHOOKS TOKEN: calls every operation of a running receiver through openapi-fetch with the
// types of openapi-typescript (api.d.ts). FILE is the OpenAPI document; each JSON result must conform to its schema.

import { readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";
import formats from "ajv-formats";
import createClient from "openapi-fetch";
import type { components, operations, paths } from "./api.js";

type Schemas = components["schemas"];
type Result<T> = { data?: T; error?: Schemas["Problem"]; response: Response };
type OperationId = keyof operations;

const [file, admin, webhooks, token] = process.argv.slice(2) as [string, string, string, string];
const document = JSON.parse(readFileSync(file, "utf8"));
const ajv = new Ajv2020({ strict: false });
formats.default(ajv);
ajv.addSchema({ ...document, $id: "api" });

const client = createClient<paths>({ baseUrl: admin, headers: { Authorization: `Bearer ${token}` } });
const stranger = createClient<paths>({ baseUrl: admin, headers: { Authorization: "Bearer wrong" } });
const publicPort = createClient<paths>({ baseUrl: webhooks });

function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(message);
}

async function ok<T>(call: Promise<Result<T>>): Promise<T> {
  const { data, error, response } = await call;
  assert(data !== undefined, `${response.url}: ${response.status} ${error?.detail}`);
  return data;
}

async function problem(status: number, call: Promise<Result<unknown>>): Promise<Schemas["Problem"]> {
  const { error, response } = await call;
  assert(error?.status === status && response.status === status, `${response.url}: ${response.status} ${error?.detail}`);
  assert(ajv.validate("api#/components/schemas/Problem", error), `${response.url}: ${ajv.errorsText()}`);
  return error;
}

// Reads an event stream, which has no end, up to the event of a webhook that is sent meanwhile.
async function follow(): Promise<void> {
  const stream = await ok(client.GET("/api/v1/events", { params: { query: { workflow: "w" } }, parseAs: "stream" }));
  assert(stream, "the event stream has no body");
  const reader = (stream as ReadableStream<BufferSource>).pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let sent = false; ; ) {
    const { value, done } = await reader.read();
    assert(!done, "the event stream ended");
    text += value;
    if (text.includes(": subscribed") && !sent) {
      sent = true;
      await ok(webhook({ execution_id: "from-typescript", workflow_id: "w", status: "completed" }));
    }
    const data = /^data: (.*)\n/m.exec(text)?.[1];
    if (data) {
      const event: Schemas["Change"] = JSON.parse(data);
      assert(ajv.validate("api#/components/schemas/Change", event), `${data}: ${ajv.errorsText()}`);
      assert(event.execution_id === "from-typescript", data);
      return reader.cancel();
    }
  }
}

const webhook = (body: Schemas["Webhook"]) => publicPort.POST("/webhooks/workflow-completed", { body });
const lines = (text: string) => assert(text.split("\n").length > 2, `too few lines: ${text}`);

const bulks = await ok(client.GET("/api/v1/bulks", { params: { query: { from: "yesterday" } } }));
const executions = await ok(client.GET("/api/v1/executions", { params: { query: { from: "1h", status: "failed" } } }));
const predictions = await ok(client.GET("/api/v1/predictions", { params: { query: { status: "failed" } } }));
const conflicts = await ok(client.GET("/api/v1/conflicts", { params: { query: { limit: 1 } } }));
const quarantine = await ok(client.GET("/api/v1/quarantine"));
const { bulk_id } = bulks.items[0]!;
const { execution_id } = executions.items[0]!;
const { prediction_id } = predictions.items[0]!;
const { conflict_id } = conflicts.items[0]!;
const { quarantine_id } = quarantine.items[0]!;

// The type requires every operation of the document.
const calls: Record<OperationId, () => Promise<unknown>> = {
  get_overview: () => ok(client.GET("/api/v1/overview", { params: { query: { by: "day", workflow: "w" } } })),
  list_workflows: () => ok(client.GET("/api/v1/workflows", { params: { query: { order: "failed", days: 1 } } })),
  list_executions: async () => {
    const first = await ok(client.GET("/api/v1/executions", { params: { query: { limit: 1 } } }));
    const query = { limit: 1, ...(first.next === null ? {} : { cursor: first.next }) };
    const second = await ok(client.GET("/api/v1/executions", { params: { query } }));
    assert(first.items[0]?.execution_id !== second.items[0]?.execution_id, "the second page repeats the first one");
    return second;
  },
  get_execution: () => ok(client.GET("/api/v1/executions/{execution_id}", { params: { path: { execution_id } } })),
  list_results: () => ok(client.GET("/api/v1/results", { params: { query: { to: new Date().toISOString() } } })),
  list_predictions: async () => predictions,
  get_prediction: () => ok(client.GET("/api/v1/predictions/{prediction_id}", { params: { path: { prediction_id } } })),
  list_failures: () => ok(client.GET("/api/v1/failures", { params: { query: { by: "step" } } })),
  list_bulks: async () => bulks,
  get_bulk: () => ok(client.GET("/api/v1/bulks/{bulk_id}", { params: { path: { bulk_id } } })),
  list_expected: () => ok(client.GET("/api/v1/expected", { params: { query: { state: "missing", limit: 1 } } })),
  register_expected: async () => {
    const body = { bulk_id: "b-typescript", executions: [{ execution_id: "t-1", status: "queued" }, { status: "failed" }] };
    const registered = await ok(client.POST("/api/v1/expected", { body }));
    assert(registered.expected === 1 && registered.rejected === 1, JSON.stringify(registered));
    await problem(409, client.POST("/api/v1/expected", { body: { ...body, bulk_id: "other" } }));
    return registered;
  },
  list_conflicts: async () => conflicts,
  get_conflict: () => ok(client.GET("/api/v1/conflicts/{conflict_id}", { params: { path: { conflict_id } } })),
  list_quarantine: async () => quarantine,
  get_quarantined: () => ok(client.GET("/api/v1/quarantine/{quarantine_id}", { params: { path: { quarantine_id } } })),
  list_changes: () => ok(client.GET("/api/v1/changes", { params: { query: { after: "0", limit: 1, wait: 1 } } })),
  follow_events: follow,
  export_executions: async () => {
    const query = { format: "csv" } as const;
    lines(await ok(client.GET("/api/v1/export/executions", { params: { query }, parseAs: "text" })));
  },
  export_results: async () => lines(await ok(client.GET("/api/v1/export/results", { parseAs: "text" }))),
  export_predictions: async () => lines(await ok(client.GET("/api/v1/export/predictions", { parseAs: "text" }))),
  // The receiver has no eachlabs.api_key.
  reconcile: () => problem(409, client.POST("/api/v1/reconcile", { params: { query: { since: "1h" } }, parseAs: "text" })),
  receive_webhook: () => ok(webhook({ execution_id: 67890, workflow_id: "w", status: "completed" })),
};

for (const item of Object.values<any>(document.paths)) {
  for (const operation of [item.get, item.post].filter(Boolean)) {
    const result = await calls[operation.operationId as OperationId]();
    const schema = operation.responses[200].content["application/json"]?.schema;
    if (!schema) continue;
    const valid = ajv.validate(`api${schema.$ref}`, result);
    assert(valid, `${operation.operationId}: ${ajv.errorsText()}\n${JSON.stringify(result)}`);
  }
}

const { parameter } = await problem(400, client.GET("/api/v1/executions", { params: { query: { limit: 5000 } } }));
assert(parameter === "limit", `the problem names ${parameter}`);
await problem(401, stranger.GET("/api/v1/bulks"));
await problem(404, client.GET("/api/v1/bulks/{bulk_id}", { params: { path: { bulk_id: "absent" } } }));
await problem(422, webhook({ execution_id: "e", workflow_id: "", status: "completed" }));
console.log(`the TypeScript client has called ${Object.keys(calls).length} operations`);
