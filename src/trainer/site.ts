/**
 * The site side of a trainer with data of its own: sees that run and site belong together, reads what a step or
 * an evaluation asks for, and decides what is told of it. Its errors quote the data: they are for the site's user
 * and never sent.
 */
import { createHash } from 'node:crypto';
import { gunzipSync } from 'node:zlib';
import type { RunConfig } from '../config/schema.ts';
import { ConfigError } from '../errors.ts';
import { baseHash } from '../files/base-weights.ts';
import type { OnProgress } from '../files/dataset.ts';
import { byteTokenizer, loadTokenizer, parseTokenizer, type Tokenizer } from '../files/tokenizer.ts';
import type { Sequences, SiteFacts, WelcomeMessage } from '../protocol/messages.ts';
import { openSiteData, type SiteData } from './site-data.ts';
import type { WelcomedRun } from './welcomed-run.ts';

/** What the site's user has said. */
export interface SiteOptions {
  /** The file or folder with the data. */
  readonly data: string;
  /** Where tokens are kept. */
  readonly cacheDir: string;
  readonly skipsBadLines: boolean;
  /** What is told beside contributions: losses and counts, counts alone, or neither. */
  readonly shares: Sharing;
  /** A tokenizer.json, or its folder, that the run's must be equal to; needed where the run's is too long to be sent. */
  readonly tokenizer?: string | undefined;
  /** The model folder that the run must have begun with. */
  readonly base?: string | undefined;
  readonly onProgress: OnProgress;
}

/** What a site may tell. */
export const SHARINGS = ['losses', 'counts', 'nothing'] as const;
export type Sharing = (typeof SHARINGS)[number];

/** A tokenizer.json is not longer. */
const MAX_TOKENIZER_BYTES = 256 * 1024 * 1024;

/** A site in a run. */
export class Site {
  readonly #data: SiteData;
  readonly #config: RunConfig;
  readonly #shares: Sharing;

  private constructor(data: SiteData, config: RunConfig, shares: Sharing) {
    this.#data = data;
    this.#config = config;
    this.#shares = shares;
  }

  /**
   * Opens the site's data for the run.
   * @throws ConfigError if run and site do not belong together; DataError for data that cannot be used
   */
  static async open(run: WelcomedRun, facts: SiteFacts, options: SiteOptions): Promise<Site> {
    const { config } = run;
    const asks = whatAsksForCounts(config);
    if (options.shares === 'nothing' && asks !== null) {
      throw new ConfigError(`--share is nothing, but ${asks}: it needs counts`);
    }
    await checkBase(run, facts, options.base);
    const data = await openSiteData({
      path: options.data,
      task: config.task,
      tokenizer: tokenizerOf(facts, options),
      seqLen: config.seq_len,
      validationFraction: config.data.validation_fraction,
      cacheDir: options.cacheDir,
      skipBadLines: options.skipsBadLines,
      seed: config.seed,
      onProgress: options.onProgress,
    });
    return new Site(data, config, options.shares);
  }

  /** What the site's user should know. */
  get notices(): readonly string[] {
    return this.#data.notices;
  }

  get tellsLosses(): boolean {
    return this.#shares === 'losses';
  }

  /** How many it trains on, where the run asks for that before the first step; else undefined. */
  get examples(): number | undefined {
    return this.#config.coordinator.sharding === 'examples' ? this.#data.trainExamples : undefined;
  }

  /** Its data in a sentence, for its user. */
  get description(): string {
    const { trainExamples, validationExamples } = this.#data;
    return `${trainExamples} examples to train on, ${validationExamples} held out`;
  }

  /** All sequences of a step. */
  sequencesOf(step: number, localExamples: number): Promise<Sequences> {
    return this.#data.sequencesOf(step, this.#config.local_steps.count, localExamples);
  }

  /** What is held out, in micro-batches; nothing if its losses are kept here. */
  async *heldOut(): AsyncGenerator<Sequences, void, void> {
    if (this.tellsLosses) yield* this.#data.validation(this.#config.trainer.micro_batch);
  }

  /** What a contribution of the site says of it. */
  told(lossSum: number): {
    readonly lossSum: number;
    readonly weight?: number;
    readonly isLossWithheld?: true;
  } {
    const { trainExamples, trainTokens } = this.#data;
    const { weighting } = this.#config.local_steps;
    const weight =
      weighting === 'examples' ? trainExamples : weighting === 'tokens' ? trainTokens : undefined;
    return {
      ...(weight === undefined ? {} : { weight }),
      ...(this.tellsLosses ? { lossSum } : { lossSum: 0, isLossWithheld: true as const }),
    };
  }

  close(): Promise<void> {
    return this.#data.close();
  }
}

/** What in the run asks a site for its size, in words; null: nothing. */
function whatAsksForCounts({ local_steps: { weighting }, coordinator }: RunConfig): string | null {
  if (weighting === 'examples' || weighting === 'tokens') {
    return `the run weights sites by ${weighting} (local_steps.weighting)`;
  }
  return coordinator.sharding === 'examples'
    ? 'the run shares a step out by the examples of sites (coordinator.sharding)'
    : null;
}

/** Why a trainer with these options has no place in the run; null: it has. For its user, who may mend it. */
export function siteFault(welcome: WelcomeMessage, isLocal: boolean, hasData: boolean): string | null {
  if (isLocal && (!hasData || welcome.site === undefined)) {
    return `run ${welcome.runName} trains on the data of its trainers (data.local): name yours with --data FILE`;
  }
  if (!isLocal && hasData) {
    return `run ${welcome.runName} hands out its own data (data.local is false): --data would not be used; leave it out`;
  }
  return null;
}

async function checkBase(
  { config, model }: WelcomedRun,
  facts: SiteFacts,
  base: string | undefined,
): Promise<void> {
  if (base === undefined) return;
  if (facts.baseSha256.length === 0) {
    throw new ConfigError(`the run began with weights made from its seed, not with ${base} (--base)`);
  }
  const wanted = Buffer.from(facts.baseSha256).toString('hex');
  const found = await baseHash(base, model, config.seed);
  if (found === wanted) return;
  throw new ConfigError(
    `the run began with other weights (SHA-256 ${wanted}) than those of ${base} (SHA-256 ${found}; --base)`,
  );
}

/** The run's tokenizer, which must be the site's own if it has named one. */
function tokenizerOf({ tokenizer: zipped, tokenizerSha256 }: SiteFacts, options: SiteOptions): Tokenizer {
  const own = options.tokenizer === undefined ? null : loadTokenizer(options.tokenizer);
  if (tokenizerSha256.length === 0) {
    if (own === null) return byteTokenizer();
    throw new ConfigError(
      `the run's tokens are bytes; --tokenizer ${options.tokenizer} is another tokenizer`,
    );
  }
  const wanted = Buffer.from(tokenizerSha256).toString('hex');
  if (own !== null) {
    const found = sha256Of(own.json ?? '');
    if (found === wanted) return own;
    throw new ConfigError(
      `the tokenizer of the run (SHA-256 ${wanted}) is not ${options.tokenizer} (SHA-256 ${found})`,
    );
  }
  if (zipped.length === 0) {
    throw new ConfigError(
      `the tokenizer of the run (SHA-256 ${wanted}) is too long to be sent: name your copy with --tokenizer FILE`,
    );
  }
  const json = gunzipSync(zipped, { maxOutputLength: MAX_TOKENIZER_BYTES }).toString('utf8');
  if (sha256Of(json) !== wanted) throw new ConfigError('the tokenizer that the coordinator sent is damaged');
  return parseTokenizer(json, 'the tokenizer of the run');
}

function sha256Of(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
