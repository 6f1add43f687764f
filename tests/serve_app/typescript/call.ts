// Calls a live service with the generated types: node call.js BASE_URL API_KEY. Prints what it got as JSON.
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[] };
type Transaction = components["schemas"]["Transaction"];

const [baseUrl, key] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl, headers: { "X-API-Key": key } });
const stranger = createClient<paths>({ baseUrl });

const transaction: Transaction = {
  TRANSACTION_ID: "17",
  TX_DATETIME: "2018-09-01T10:15:00",
  CUSTOMER_ID: "5",
  TERMINAL_ID: 3,
  TX_AMOUNT: 57.1,
};
const wrong: Transaction = { ...transaction, TX_AMOUNT: -1 };

const query = { learn: false, reasons: true };
const scored = await client.POST("/score", { body: transaction, params: { query } });
const refused = await client.POST("/score", { body: wrong });
const batch = await client.POST("/score/batch", { body: [transaction, wrong], params: { query: { learn: false } } });
const explained = await client.POST("/explain", { body: transaction });
const model = await client.GET("/model");
const health = await client.GET("/healthz");
const denied = await stranger.GET("/model");

// Typed: these lines do not compile if the document stops naming the fields.
const score: number | undefined = scored.data && !("fallback" in scored.data) ? scored.data.score : undefined;
const problem: string | null | undefined = refused.error?.detail[0].field;
const evidence: number | undefined = explained.data?.evidence;
console.log(JSON.stringify({
  score,
  problem,
  evidence,
  scored: batch.data?.scored,
  rejected: batch.data?.rejected,
  version: model.data?.model_version,
  health: health.data?.status,
  denied: denied.response.status,
}));
