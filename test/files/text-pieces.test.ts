import test from 'ava';
import { TextPieces } from '../../src/files/text-pieces.ts';
import { byteTokenizer } from '../../src/files/tokenizer.ts';

function pieces(text: string): readonly string[] {
  const given: string[] = [];
  const tokenizer = byteTokenizer();
  const stream = new TextPieces(tokenizer, (piece) => void given.push(piece));
  for (const id of tokenizer.encode(text)) stream.add(id);
  stream.end();
  return given;
}

test('a character is given out when its last byte is there', (t) => {
  t.deepEqual(pieces('aé😀b'), ['a', 'é', '😀', 'b']);
});

test('nothing is lost or given twice', (t) => {
  const text = 'Grüße, 世界! 👩‍🚀';
  t.is(pieces(text).join(''), text);
});

test('bytes that never become a character come at the end', (t) => {
  const given: string[] = [];
  const stream = new TextPieces(byteTokenizer(), (piece) => void given.push(piece));
  stream.add(0x61);
  stream.add(0xf0); // the first of four bytes
  t.deepEqual(given, ['a']);
  stream.end();
  t.deepEqual(given, ['a', '\ufffd']);
});
