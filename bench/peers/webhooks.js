// Express + pg, a typical implementation that commits each webhook before its 200.
// It has no bulk counts, conflicts or quarantine, so it does less work than the receiver.
const cluster = require('node:cluster');
const os = require('node:os');
const express = require('express');
const { Pool } = require('pg');

const INSERT = `
  INSERT INTO executions (execution_id, workflow_id, bulk_id, status, started_at, completed_at, output, error,
      error_cause, total_cost, payload, deliveries, first_received_at, last_received_at)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 1, now(), now())
  ON CONFLICT (execution_id) DO UPDATE SET
      deliveries = executions.deliveries + 1, last_received_at = excluded.last_received_at`;

if (cluster.isPrimary) {
  for (let i = 0; i < os.cpus().length; i++) cluster.fork();
} else {
  const pool = new Pool({ host: process.env.PGHOST, user: process.env.PGUSER, database: process.env.PGDATABASE });
  const app = express();
  app.use(express.json({ limit: '16mb', type: () => true }));
  app.post('/webhooks/workflow-completed', async (req, res) => {
    const e = req.body;
    if (!e?.execution_id || !e.workflow_id || !e.status) return res.status(422).json({ error: 'not an execution' });
    await pool.query(INSERT, [
      e.execution_id, e.workflow_id, e.bulk_id, e.status, e.started_at, e.completed_at,
      JSON.stringify(e.output), e.error, e.error_cause, e.total_cost, JSON.stringify(e),
    ]);
    res.json({ received: true });
  });
  app.listen(Number(process.env.PORT), '127.0.0.1').keepAliveTimeout = 75_000;
}
