/**
 * What this project makes of a model folder, for hf-round-trip.py to compare. Reads a request as JSON on
 * standard input, writes the answer as JSON on standard output: logits where `ids` are given (rows of equal
 * length), ids and texts again where `texts` are.
 */
import { readModelConfig } from '../../src/files/model-config.ts';
import type { BertConfig } from '../../src/model/bert-config.ts';
import { isClassifier } from '../../src/model/model-config.ts';
import { UNKNOWN_CLASS } from '../../src/trainer/model/batch.ts';
import { loadTokenizer } from '../../src/files/tokenizer.ts';
import { openWeights, type WeightsFolder } from '../../src/trainer/open-model.ts';

interface Question {
  readonly folder: string;
  /** A peft adapter to use the model with. */
  readonly adapter?: string;
  readonly ids?: readonly (readonly number[])[];
  readonly texts?: readonly string[];
}

const pieces: Buffer[] = [];
for await (const piece of process.stdin) pieces.push(piece as Buffer);
const question = JSON.parse(Buffer.concat(pieces).toString('utf8')) as Question;
process.stdout.write(JSON.stringify({ ...(await logitsOf(question)), ...tokensOf(question) }));

async function logitsOf({
  folder,
  adapter,
  ids,
}: Question): Promise<{ logits?: number[]; shape?: number[] }> {
  if (ids === undefined) return {};
  const config = await readModelConfig(folder);
  const of = { path: folder, config: null, ...(adapter === undefined ? {} : { adapter }) };
  if (isClassifier(config)) return classLogits(of, config, ids);
  using opened = await openWeights(of, config, 1);
  const tokens = { ids: Int32Array.from(ids.flat()), sequences: ids.length, length: ids[0]?.length ?? 0 };
  const logits = opened.model.logits(tokens);
  const answer = { logits: [...logits.dataSync<'float32'>()], shape: logits.shape };
  logits.dispose();
  return answer;
}

/** Rows are padded with −1 here. */
async function classLogits(
  folder: WeightsFolder,
  config: BertConfig,
  ids: readonly (readonly number[])[],
): Promise<{ logits: number[]; shape: number[] }> {
  using opened = await openWeights(folder, config, 1);
  const [sequences, length] = [ids.length, ids[0]?.length ?? 0];
  const batch = {
    ids: Int32Array.from(ids.flat(), (id) => Math.max(0, id)),
    classes: new Int32Array(sequences).fill(UNKNOWN_CLASS),
    lengths: Int32Array.from(ids, (row) => row.filter((id) => id >= 0).length),
    ...{ sequences, length },
  };
  const logits = opened.model.logits(batch);
  const answer = { logits: [...logits.dataSync<'float32'>()], shape: logits.shape };
  logits.dispose();
  return answer;
}

function tokensOf({ folder, texts }: Question): { tokens?: number[][]; decoded?: string[] } {
  if (texts === undefined) return {};
  const tokenizer = loadTokenizer(folder);
  const tokens = texts.map((text) => [...tokenizer.encode(text)]);
  return { tokens, decoded: tokens.map((ids) => tokenizer.decode(ids)) };
}
