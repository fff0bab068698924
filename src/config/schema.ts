/**
 * The configuration of a run: one tree, checked as a whole. Field names are those of the YAML file
 * and of the tools people know (GaLore, Hugging Face, PyTorch). What a preset decides may be left
 * out here and is filled in by presets.ts.
 */
import { z } from 'zod';
import { AGGREGATION_RULES } from '../galore/aggregate/tolerance.ts';
import { RUN_PRESETS } from './run-presets.ts';
import { POOLINGS } from '../model/pooling.ts';
import { DEVICE_PATTERN, DEVICE_WORDS, type DeviceWish } from '../device-name.ts';

/** Counts travel as uint32. */
const MAX_COUNT = 0xffffffff;
/** A day: longer times do not fit a timer and are mistakes. */
const MAX_TIME_MS = 86_400_000;

const count = z.int().min(1).max(MAX_COUNT);
const countOrZero = z.int().min(0).max(MAX_COUNT);
const milliseconds = z.int().min(1).max(MAX_TIME_MS);
const millisecondsOrZero = z.int().min(0).max(MAX_TIME_MS);

/** A thousand optimizer steps without an exchange are no synchronous training any more. */
const MAX_LOCAL_STEPS = 1000;
const MAX_MOMENT_PERIOD = 1000;

/** Names of the model sizes of the GaLore paper. */
export const MODEL_SIZES = [
  '9m',
  '20m',
  '35m',
  '40m',
  '60m',
  '71m',
  '100m',
  '130m',
  '250m',
  '350m',
  '1b',
  '3b',
  '7b',
] as const;

/** f32 throughout, or matrix products in bf16. */
export const PRECISIONS = ['f32', 'bf16'] as const;

const modelFields = z.strictObject({
  size: z.enum(MODEL_SIZES).optional().describe('A size of the GaLore paper; the other fields override it'),
  path: z.string().min(1).optional().describe('A Hugging Face model folder to start from'),
  adapter: z
    .string()
    .min(1)
    .optional()
    .describe('With path, for lora and relora: the folder of a peft adapter to start from'),
  vocab_size: count.optional().describe('Default: the number of tokens of the tokenizer'),
  hidden_size: count.optional().describe('Width of the model'),
  intermediate_size: count.optional().describe('Width inside the MLP of a layer'),
  num_hidden_layers: count.optional().describe('Layers'),
  num_attention_heads: count.optional().describe('Attention heads of a layer'),
  num_key_value_heads: count
    .optional()
    .describe('Default: num_attention_heads; fewer: grouped-query attention'),
  tie_word_embeddings: z
    .boolean()
    .optional()
    .describe('Use the embedding as the output layer too; default: false'),
  rope_theta: z.number().positive().optional().describe('Base of the rotary positions; default: 10000'),
  rms_norm_eps: z
    .number()
    .positive()
    .optional()
    .describe('Added to the mean square in RMSNorm; default: 1e-6'),
  initializer_range: z
    .number()
    .positive()
    .optional()
    .describe('Standard deviation of new weights; default: 0.02'),
});

const model = z
  .union([z.enum(MODEL_SIZES).transform((size) => ({ size })), modelFields])
  .pipe(modelFields)
  .describe('A size such as 60m, or a mapping: size, path, or the fields of a config.json');

/** What is learnt: the next token, or the label of a whole text. */
export const TASKS = ['causal-lm', 'sequence-classification'] as const;

const task = z.strictObject({
  type: z.enum(TASKS).default('causal-lm').describe('What is learnt: the next token, or the label of a text'),
  labels: z
    .array(z.string().min(1).max(200))
    .min(2)
    .max(10_000)
    .optional()
    .describe('For sequence-classification: the labels, in the order of their numbers'),
  pooling: z
    .enum(POOLINGS)
    .optional()
    .describe(
      'For sequence-classification: what a text is told from, its first token (through a dense layer with tanh) or the mean of its tokens; default: as the folder says',
    ),
});

const data = z.strictObject({
  path: z
    .union([z.string().min(1), z.array(z.string().min(1)).min(1)])
    .optional()
    .describe(
      'Text or JSONL files, or folders of them; npm:PACKAGE/FOLDER names a folder of an installed package; none with local',
    ),
  local: z
    .boolean()
    .default(false)
    .describe(
      'Every trainer reads its own data (galore trainer --data), and nothing of it leaves; batch_size is then that of each trainer (with coordinator.sharding: examples, of the mean one)',
    ),
  format: z.enum(['auto', 'text', 'jsonl']).default('auto').describe('auto: by the end of the file name'),
  order: z
    .enum(['shuffled', 'sequential'])
    .default('shuffled')
    .describe('Order of the sequences in an epoch'),
  validation_fraction: z
    .number()
    .min(0)
    .max(0.5)
    .default(0.02)
    .describe('Share of the documents held out, chosen by hash'),
  validation_path: z
    .string()
    .min(1)
    .optional()
    .describe('Held-out data of its own; replaces validation_fraction'),
  cache_dir: z
    .string()
    .min(1)
    .optional()
    .describe('Where tokenised data is kept; default: the cache folder of the user'),
});

const tokenizer = z.strictObject({
  type: z
    .enum(['bpe', 'byte', 'file'])
    .default('bpe')
    .describe('bpe: trained on the data; byte: the bytes themselves; file: a tokenizer.json'),
  vocab_size: z
    .int()
    .min(257)
    .max(1_000_000)
    .default(4096)
    .describe('For bpe: the number of tokens to train'),
  path: z.string().min(1).optional().describe('For file: tokenizer.json or the folder that holds it'),
});

/** The methods by name; docs/methods.md says what each is. */
export const METHODS = [
  'galore',
  'full',
  'adarankgrad',
  'fira',
  'apollo',
  'apollo-mini',
  'ldadam',
  'sumo',
  'two-sided',
  'golore',
  'flora',
  'q-galore',
  'power',
  'lora',
  'relora',
] as const;

/** How a tensor may travel; `docs/methods.md` says what each is. */
export const POLICIES = ['dense', 'one-sided', 'two-sided', 'power', 'row-sparse', 'frozen'] as const;
/** How numbers may travel. */
export const CODECS = ['f32', 'bf16', 'int8', 'int4'] as const;
const FEEDBACKS = ['none', 'payload', 'gradient'] as const;
const BUFFER_DTYPES = ['f32', 'bf16', 'int8'] as const;

const rank = z.union([
  count,
  z.string().regex(/^d\/[1-9][0-9]{0,3}$/, 'a number, or a share of the hidden size such as d/8'),
]);

const paramGroup = z.strictObject({
  match: z.array(z.string().min(1)).min(1).describe('Tensors whose name contains one of these'),
  policy: z.enum(POLICIES).optional().describe('How they travel; default: as method.name has it'),
  rank: rank.optional().describe('Default: method.rank'),
  scale: z.number().positive().optional().describe('Default: method.scale, for dense tensors 1'),
  feedback: z.enum(FEEDBACKS).optional().describe('Default: method.feedback'),
  codec: z.enum(CODECS).optional().describe('Default: wire.codec'),
  update_codec: z.enum(CODECS).optional().describe('Default: the codec of the group, or wire.update_codec'),
});

const refresh = z.strictObject({
  type: z
    .enum(['sketch', 'exact'])
    .optional()
    .describe(
      'sketch: its product with a thin matrix travels; exact: the gradient itself does, and is factorised',
    ),
  oversample: countOrZero.optional().describe('Columns of the sketch beyond the rank'),
  power_iterations: z
    .int()
    .min(0)
    .max(3)
    .optional()
    .describe('Each one makes the basis better and costs two rounds'),
  warm_start: z
    .boolean()
    .optional()
    .describe('Start the power iterations from the last basis: one round less'),
  stagger: z.boolean().optional().describe('Spread the refreshes of the slots over update_proj_gap steps'),
  lazy_threshold: z
    .number()
    .gt(0)
    .max(1)
    .optional()
    .describe(
      'Double the gap of a slot whose last refreshes kept more than this share of the basis (Q-GaLore); default: never',
    ),
  converged_ratio: z
    .number()
    .gt(0)
    .lt(1)
    .optional()
    .describe(
      'Refresh a slot early when its projected gradient has shrunk to this share of its norm after the last refresh (AdaRankGrad); default: never',
    ),
});

const adaptiveRank = z.strictObject({
  threshold: z
    .number()
    .gt(0)
    .lt(1)
    .optional()
    .describe('Share of the squared gradient norm that may stay outside the subspace; default: fixed ranks'),
  min_rank: count.default(8).describe('Least rank; method.rank is the greatest'),
  multiple: count.default(8).describe('Ranks are multiples of this'),
  probes: z.int().min(2).max(64).default(8).describe('Held-out columns of the sketch that measure the rest'),
});

const method = z.strictObject({
  name: z
    .enum(METHODS)
    .default('galore')
    .describe('full: whole gradients, for comparison; the others: docs/methods.md'),
  preset: z
    .enum(['recommended', 'parity'])
    .default('recommended')
    .describe('What fields left out become; parity: as in the galore-torch package'),
  rank: rank.optional().describe('Rank of the subspace, or its share of the hidden size; default: d/4'),
  rank_budget: z
    .number()
    .gt(1)
    .optional()
    .describe(
      'How many times fewer bytes than dense f32 the mean contribution has at least: all ranks are multiplied by the one factor that just allows it; default: ranks as given',
    ),
  update_proj_gap: count.default(200).describe('Steps between refreshes of a slot (T)'),
  scale: z
    .number()
    .positive()
    .optional()
    .describe('GaLore alpha: multiplies the projected update; default: 0.25, for APOLLO 1, APOLLO-Mini 128'),
  proj_type: z
    .enum(['std', 'reverse_std', 'left', 'right'])
    .default('std')
    .describe('Side of a matrix that is projected; std: the shorter one'),
  target_modules: z
    .array(z.string().min(1))
    .min(1)
    .optional()
    .describe(
      'Matrices whose name contains one of these are projected (add embed_tokens and lm_head for the rest), or with lora and relora get adapters; default: attn, mlp; for lora q_proj and v_proj of a Llama, query and value of a BERT',
    ),
  modules_to_save: z
    .array(z.string().min(1))
    .optional()
    .describe(
      'For lora and relora: tensors whose name contains one of these are trained whole, the others not at all; default: classifier and score, for relora all that has no adapter',
    ),
  lora_alpha: z
    .number()
    .positive()
    .optional()
    .describe('For lora and relora: adapters are multiplied by lora_alpha / rank; default: twice the rank'),
  use_rslora: z
    .boolean()
    .default(false)
    .describe('For lora and relora: by lora_alpha / sqrt(rank) instead (rsLoRA)'),
  merge_every: count
    .default(1000)
    .describe('For relora: steps after which adapters become part of the weights and begin anew'),
  prune_ratio: z
    .number()
    .min(0)
    .max(1)
    .default(0.99)
    .describe(
      'For relora: share of the moments of adapters that becomes zero then, the least ones; 1: all of them',
    ),
  basis: z
    .enum(['svd', 'dct', 'random', 'gaussian'])
    .optional()
    .describe(
      'Where bases come from: singular vectors, cosine columns, or the seed (orthonormal or gaussian); default: by method',
    ),
  weights: z
    .enum(['f32', 'int8'])
    .optional()
    .describe('How matrices with a basis are kept; int8: one byte a number; default: f32, for q-galore int8'),
  moments: z
    .enum(['keep', 'reset', 'rotate', 'ldadam', 'transport', 'adarank'])
    .optional()
    .describe(
      'What happens to the moments at a refresh; transport is the rule of LDAdam, completed for directions that are new',
    ),
  limiter: z
    .number()
    .min(1)
    .optional()
    .describe('Growth of the update from step to step in Fira and APOLLO (1.01) and SUMO (1.1)'),
  adaptive_rank: adaptiveRank.prefault({}),
  refresh: refresh.prefault({}),
  feedback: z
    .enum(FEEDBACKS)
    .default('none')
    .describe(
      'What a trainer keeps to send later: what the codec left out of the payload, or all that did not travel; with gradient bases are made of all that is kept',
    ),
  feedback_dtype: z
    .enum(BUFFER_DTYPES)
    .default('int8')
    .describe('Of the error that power and feedback: gradient keep'),
  moment_dtype: z.enum(BUFFER_DTYPES).default('int8').describe('Of the first moment of power'),
  update_clip: z
    .number()
    .positive()
    .default(1)
    .describe('Greatest root mean square of an update of power, before the learning rate'),
  param_groups: z
    .array(paramGroup)
    .default([])
    .describe('What is different for some tensors; of several groups that match the first counts'),
});

const schedule = z.strictObject({
  type: z
    .enum(['constant', 'linear', 'cosine', 'wsd'])
    .default('constant')
    .describe('Course of the learning rate after warm-up'),
  warmup_steps: countOrZero.default(0).describe('Steps in which the learning rate rises to lr'),
  restart_warmup_steps: countOrZero
    .optional()
    .describe(
      'For relora: steps in which it rises again after a merge; default: a tenth of method.merge_every, at most 100',
    ),
  min_lr_ratio: z
    .number()
    .min(0)
    .max(1)
    .default(0.1)
    .describe('Where linear, cosine and wsd end, as a share of lr'),
  decay_steps: count
    .optional()
    .describe('For wsd: the last steps, in which the rate falls linearly; default: a tenth of the run'),
});

const adafactor = z.strictObject({
  eps: z
    .tuple([z.number().positive(), z.number().positive()])
    .default([1e-30, 1e-3])
    .describe('Added to squared gradients; least root mean square of the weights for scale_parameter'),
  clip_threshold: z.number().positive().default(1).describe('Greatest root mean square of an update'),
  decay_rate: z.number().lt(0).default(-0.8).describe('The second moment decays by 1 - step^decay_rate'),
  beta1: z.number().min(0).lt(1).default(0).describe('Decay of the first moment; 0: none is kept'),
  scale_parameter: z.boolean().default(false).describe('Multiply lr by the root mean square of the weights'),
  relative_step: z.boolean().default(false).describe('Use min(0.01, 1/sqrt(step)) in the place of lr'),
});

/** The optimizers by name. */
export const OPTIMIZERS = ['adamw', 'adamw-8bit', 'adafactor', 'sgd'] as const;

const optimizer = z.strictObject({
  name: z
    .enum(OPTIMIZERS)
    .optional()
    .describe('Rule of the update; adamw-8bit keeps its moments in one byte a number; default: by method'),
  lr: z.number().positive().default(0.01).describe('Learning rate'),
  betas: z
    .tuple([z.number().min(0).lt(1), z.number().min(0).lt(1)])
    .optional()
    .describe('Decay of the first and second moment'),
  eps: z.number().positive().optional().describe('Added to the root of the second moment'),
  weight_decay: z
    .number()
    .min(0)
    .default(0)
    .describe('Decoupled, as in AdamW; with sgd added to the gradient, as in PyTorch'),
  momentum: z.number().min(0).lt(1).optional().describe('For sgd (default: 0.9) and sumo (0.95)'),
  nesterov: z.boolean().default(false).describe('For sgd'),
  adafactor: adafactor.prefault({}),
  semantics: z
    .enum(['torch', 'galore_torch'])
    .optional()
    .describe('torch: eps after bias correction, decay before the update; galore_torch: the reverse of both'),
  max_grad_norm: z
    .number()
    .positive()
    .optional()
    .describe('Clip by the norm of the summed contribution; default: no clipping'),
  schedule: schedule.prefault({}),
});

/** What the contributions of a step are weighted by. */
export const WEIGHTINGS = ['targets', 'examples', 'tokens', 'equal'] as const;

const momentPeriod = z.int().min(1).max(MAX_MOMENT_PERIOD);

const localSteps = z.strictObject({
  count: z
    .int()
    .min(1)
    .max(MAX_LOCAL_STEPS)
    .default(1)
    .describe(
      'Optimizer steps of batch_size sequences that trainers take by themselves before they exchange how far they have come (H); 1: none',
    ),
  outer: z
    .enum(['none', 'nesterov', 'adam'])
    .default('none')
    .describe('What is done with the mean displacement; none: it is added'),
  outer_lr: z
    .number()
    .positive()
    .optional()
    .describe(
      'Multiplies the mean displacement; default: 1, for nesterov 0.7; with adam it multiplies count times the learning rate',
    ),
  outer_momentum: z.number().min(0).lt(1).optional().describe('For nesterov; default: 0.9'),
  moments: z
    .enum(['local', 'averaged', 'reset'])
    .default('local')
    .describe(
      'Of the local optimizer: local: each trainer has its own; averaged: from time to time they become the mean of all; reset: they begin anew after every exchange',
    ),
  moment_periods: z
    .tuple([momentPeriod, momentPeriod])
    .optional()
    .describe(
      'For averaged: the first moments travel with every so many exchanges, the second with every so many, a multiple; default: 3, 6',
    ),
  proximal_mu: z
    .number()
    .min(0)
    .default(0)
    .describe('FedProx: this times how far a weight has come since the exchange is added to its gradient'),
  weighting: z
    .enum(WEIGHTINGS)
    .optional()
    .describe(
      'What a contribution counts by: its loss targets, the training examples or tokens of its site (only with data.local), or equal; default: targets, with data.local examples',
    ),
  participation: z
    .number()
    .gt(0)
    .max(1)
    .default(1)
    .describe('Share of the trainers that take part in a step, drawn anew for each, at least one'),
});

const wire = z.strictObject({
  codec: z
    .enum(CODECS)
    .default('int8')
    .describe('How numbers travel: 4, 2, 1.02 or 0.53 bytes each; int4 with error feedback'),
  update_codec: z
    .enum(CODECS)
    .optional()
    .describe('From the coordinator to the trainers; default: wire.codec'),
  overlap: z
    .enum(['exact', 'delayed'])
    .default('exact')
    .describe(
      'delayed: slots that travel as power send what they have kept before the gradient of the step is added, one step stale, so that all of it travels while the step is computed',
    ),
});

const aggregation = z.strictObject({
  rule: z
    .enum(AGGREGATION_RULES)
    .default('mean')
    .describe(
      'How one contribution is made of those of all trainers; all but mean stand some that send garbage (docs/federated.md)',
    ),
  byzantine: z
    .union([
      count,
      z
        .string()
        .regex(/^[1-9][0-9]?%$/, 'a number of trainers, or a share of them such as 25%, rounded down'),
    ])
    .default(1)
    .describe(
      'How many trainers of a step, or which share, may send garbage (f); for trimmed-mean, krum and multi-krum',
    ),
  clip_factor: z
    .number()
    .positive()
    .max(1e6)
    .default(1)
    .describe(
      'For centred-clipping: how far from the centre a trainer counts wholly, in median distances from it',
    ),
  clip_iterations: z.int().min(1).max(100).default(3).describe('For centred-clipping'),
});

const coordinator = z.strictObject({
  host: z
    .string()
    .min(1)
    .default('127.0.0.1')
    .describe('Address to listen on; 0.0.0.0: every address of this machine'),
  port: z.int().min(0).max(65535).default(29400).describe('0: any free port'),
  start_trainers: count.default(1).describe('Trainers to wait for before the first step'),
  min_trainers: count.default(1).describe('Below this the run waits'),
  max_trainers: count.default(64).describe('More are turned away'),
  local_trainers: countOrZero
    .default(0)
    .describe('Trainers that `galore train` and `galore resume` start on this machine'),
  sharding: z
    .enum(['equal', 'adaptive', 'examples'])
    .default('equal')
    .describe(
      'Sequences of a step for each trainer; adaptive: by measured speed, so that unequal ones finish together; examples: by how many each has (only with data.local)',
    ),
  staging_memory: count
    .default(2048)
    .describe('Contributions of a step beyond this wait in a file of the run directory, in MiB'),
  outliers: z
    .enum(['accept', 'clip', 'reject'])
    .default('accept')
    .describe(
      'What is done with a contribution whose norm is beyond outlier_factor times the median of its step: taken down to it, or left out',
    ),
  outlier_factor: z
    .number()
    .gt(1)
    .max(1e6)
    .default(10)
    .describe('For outliers: clip and reject, and for aggregation.rule: norm-filter'),
  aggregation: aggregation.prefault({}),
  step_deadline_ms: millisecondsOrZero
    .default(600_000)
    .describe('How long a step waits for a slow trainer; 0: for ever'),
  quorum: z
    .union([
      count,
      z
        .string()
        .regex(/^(all|100%|[1-9][0-9]?%)$/, 'a number of trainers, a share of them such as 75%, or all'),
    ])
    .default('all')
    .describe(
      'How many trainers of a step, or which share, must have delivered for it to go on without the others once these have had grace_ms',
    ),
  grace_ms: millisecondsOrZero
    .default(10_000)
    .describe(
      'How long a step still waits for the others after its quorum; only with a quorum other than all',
    ),
  heartbeat_interval_ms: milliseconds.default(5_000).describe('How often a trainer shows that it is there'),
  heartbeat_timeout_ms: milliseconds.default(30_000).describe('A connection silent for this long is dropped'),
  handshake_timeout_ms: milliseconds
    .default(10_000)
    .describe('How long a new connection may take to say who it is'),
  auth: z
    .strictObject({
      tokens: z
        .string()
        .min(1)
        .optional()
        .describe('File of join tokens (galore token); default: tokens.json in dir, if it is there'),
    })
    .prefault({}),
  tls: z
    .strictObject({
      cert: z.string().min(1).describe('PEM file of the certificate and of those it is signed with'),
      key: z.string().min(1).describe('PEM file of its private key'),
      ca: z
        .string()
        .min(1)
        .optional()
        .describe('PEM file of the authority whose certificate every trainer must then show (mutual TLS)'),
    })
    .optional(),
  limits: z
    .strictObject({
      connections: count
        .default(256)
        .describe('Connections at once, before and after the handshake; more are answered with HTTP 503'),
      connections_per_address: count
        .default(128)
        .describe(
          'Of them from one address, of IPv6 from one network of 64 bits; more are answered with HTTP 429',
        ),
      handshakes_per_second: count
        .default(128)
        .describe(
          'New connections from one address in a second; more are answered with HTTP 429, and trainers come again',
        ),
      joins_per_second: z
        .number()
        .positive()
        .max(1000)
        .default(4)
        .describe(
          'Trainers that join with one token in a second, after max_trainers at once; more are sent away with RUN_FULL, and come again',
        ),
      messages_per_second: count
        .default(10_000)
        .describe('Messages and pings of one connection in a second; more end it'),
      unsent_memory: count
        .default(256)
        .describe('Records that may wait for a trainer that reads slowly, in MiB; more end its connection'),
    })
    .prefault({}),
  insecure: z
    .boolean()
    .default(false)
    .describe('Listen beyond this machine without join tokens or without TLS'),
});
/** Of coordinator.*, where nothing is said. */
export const COORDINATOR_DEFAULTS = coordinator.parse({});

const trainer = z.strictObject({
  micro_batch: count.default(8).describe('Sequences a trainer computes at once'),
  recompute: z.boolean().default(false).describe('Compute the intermediates again in backward: less memory'),
  precision: z
    .enum(PRECISIONS)
    .default('f32')
    .describe('Of the matrix products of local trainers; bf16 needs AVX512-BF16, AMX or a GPU'),
  loss_chunk: countOrZero.default(0).describe('Rows of the logits computed at once; 0: all'),
  threads: countOrZero
    .default(0)
    .describe('CPU threads of a trainer; 0: the cores shared among local trainers'),
  device: z
    .string()
    .regex(DEVICE_PATTERN, DEVICE_WORDS)
    .transform((text) => text as DeviceWish)
    .prefault('auto')
    .describe(
      'Device of the trainers that galore train starts: cpu, gpu:N, or auto, which spreads them over the GPUs',
    ),
});

const checkpoint = z.strictObject({
  every: countOrZero.default(100).describe('Steps between checkpoints; 0: only at the end'),
  keep: count.default(3).describe('Newest checkpoints that are kept'),
});

const evaluation = z.strictObject({
  every: countOrZero.default(50).describe('Steps between evaluations; 0: only at the end'),
  sequences: countOrZero.default(64).describe('Held-out sequences used; 0: all'),
});

const natsUrl = z
  .string()
  .regex(
    /^((nats:\/\/[^\s@,/]+)(,nats:\/\/[^\s@,/]+)*|(tls:\/\/[^\s@,/]+)(,tls:\/\/[^\s@,/]+)*)$/,
    'nats://HOST:PORT or tls://HOST:PORT, or several of a cluster with commas between them; user, password and token belong into GALORE_NATS_USER, GALORE_NATS_PASSWORD, GALORE_NATS_TOKEN',
  );

const stateFields = z.strictObject({
  url: natsUrl.describe('Servers of NATS: nats://HOST:PORT or tls://HOST:PORT, several with commas'),
  replicas: z
    .int()
    .min(1)
    .max(5)
    .optional()
    .describe('Servers that keep a copy of everything; default: 3 in a cluster of as many, else 1'),
  lease_ms: z
    .int()
    .min(500)
    .max(60_000)
    .default(3_000)
    .describe('How long a coordinator that is not heard of still counts as the leader'),
  ca: z
    .string()
    .min(1)
    .optional()
    .describe('PEM file of the authority of its certificate; default: those of the system'),
});

const state = z
  .union([natsUrl.transform((url) => ({ url })), stateFields])
  .pipe(stateFields)
  .optional()
  .describe(
    'Where records, checkpoints and the leader are kept for good: nats://HOST:PORT, or a mapping; default: the run directory',
  );

/** The YAML file's schema. */
export const runConfigSchema = z.strictObject({
  name: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, 'letters, digits, "." "_" "-", at most 64, the first no sign')
    .describe('Name of the run'),
  dir: z.string().min(1).optional().describe('Run directory; default: runs/NAME'),
  preset: z
    .enum(RUN_PRESETS)
    .optional()
    .describe(
      'How numbers travel from end to end; what the file says itself wins. docs/methods.md has the table',
    ),
  model,
  task: task.prefault({}),
  data: data.prefault({}),
  tokenizer: tokenizer.prefault({}),
  seq_len: z.int().min(2).default(128).describe('Tokens of a training sequence'),
  batch_size: count.default(16).describe('Sequences of an optimizer step, over all trainers together'),
  method: method.prefault({}),
  optimizer: optimizer.prefault({}),
  local_steps: localSteps.prefault({}),
  wire: wire.prefault({}),
  coordinator: coordinator.prefault({}),
  trainer: trainer.prefault({}),
  checkpoint: checkpoint.prefault({}),
  evaluation: evaluation.prefault({}),
  state,
  tensorboard: z
    .boolean()
    .default(false)
    .describe('Write the curves of the run for TensorBoard, too: tensorboard/ in dir'),
  steps: count.describe('Length of the run'),
  seed: z.int().min(0).max(0xffffffff).default(0).describe('Of everything random: weights, order, sketches'),
});

/** The file as checked, before the preset has filled in what was left out. */
export type RunConfigInput = z.output<typeof runConfigSchema>;

type Filled<T, K extends keyof T> = Omit<T, K> & { [P in K]-?: Exclude<T[P], undefined> };
/** What stays open in a resolved method: the rank depends on the model, the others mean "not used". */
type OpenRefresh = 'lazy_threshold' | 'converged_ratio';
type FilledRefresh = Filled<
  RunConfigInput['method']['refresh'],
  Exclude<keyof RunConfigInput['method']['refresh'], OpenRefresh>
>;

/** The resolved configuration: everything a run needs, presets applied, nothing left to decide but sizes that depend on the tokenizer. */
export interface RunConfig extends Omit<RunConfigInput, 'method' | 'optimizer' | 'local_steps' | 'dir'> {
  readonly dir: string;
  readonly local_steps: Filled<
    RunConfigInput['local_steps'],
    'outer_lr' | 'outer_momentum' | 'moment_periods' | 'weighting'
  >;
  readonly method: Omit<
    Filled<
      RunConfigInput['method'],
      'moments' | 'scale' | 'basis' | 'limiter' | 'weights' | 'target_modules' | 'modules_to_save'
    >,
    'refresh' | 'rank'
  > & {
    readonly rank: number | string | undefined;
    readonly refresh: FilledRefresh;
  };
  readonly optimizer: Filled<
    RunConfigInput['optimizer'],
    'name' | 'betas' | 'eps' | 'semantics' | 'momentum'
  >;
}
