// Every file in test/transcripts plays as written. UPDATE_TRANSCRIPTS=1 writes what is the case now;
// the difference is then reviewed as behaviour.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import test from 'ava';
import { playTranscript } from './transcript.ts';

const FOLDER = new URL('../../../../test/transcripts/', import.meta.url);
const isUpdating = process.env['UPDATE_TRANSCRIPTS'] === '1';

for (const name of readdirSync(FOLDER).filter((file) => file.endsWith('.txt'))) {
  test(`the transcript ${name} plays as written`, (t) => {
    const file = new URL(name, FOLDER);
    const text = readFileSync(file, 'utf8');
    const played = playTranscript(text);
    if (isUpdating && played !== text) writeFileSync(file, played);
    t.is(played, isUpdating ? played : text);
  });
}
