/**
 * What this project makes of a model folder, for hf-round-trip.py to compare. Reads a request as JSON on
 * standard input, writes the answer as JSON on standard output: logits where `ids` are given (rows of equal
 * length), ids and texts again where `texts` are.
 */
import { readModelConfig } from '../../src/files/model-config.ts';
import { loadTokenizer } from '../../src/files/tokenizer.ts';
import { openLlama } from '../../src/trainer/open-model.ts';

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
  using opened = await openLlama(
    { path: folder, config: null, ...(adapter === undefined ? {} : { adapter }) },
    await readModelConfig(folder),
    1,
  );
  const tokens = { ids: Int32Array.from(ids.flat()), sequences: ids.length, length: ids[0]?.length ?? 0 };
  const logits = opened.model.logits(tokens);
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
