/** Reads the TAP lines of a test run: counts, and the text of each failure. */

/** Feed it lines; `failures` holds a text per failed test, `notes` one per skipped or unfinished test. */
export function tapReader() {
  const run = { passed: 0, failed: 0, failures: [], notes: [], isComplete: false };
  let block; // the lines of the failure being read
  const end = () => {
    if (block) run.failures.push(block.join('\n'));
    block = undefined;
  };
  const read = (line) => {
    const result = /^(not )?ok \d+ - (.*)$/.exec(line);
    if (result) {
      end();
      const [, not, title] = result;
      if (/ # (SKIP|TODO)\b/.test(title)) run.notes.push(title);
      else if (not) {
        run.failed++;
        block = [title];
      } else run.passed++;
    } else if (/^1\.\.\d+/.test(line)) {
      end();
      run.isComplete = true;
    } else if (block && !/^ {2}(---|\.\.\.)$/.test(line)) {
      block.push(line);
    }
  };
  return { run, read, end };
}
