/**
 * Loaded into AVA before it starts: names the tests that were still running when nothing had finished for
 * the whole `timeout` of ava.config.js. AVA 7's TAP reporter breaks there (repaired in AVA 8, which needs
 * Node 22).
 */
import { basename, relative } from 'node:path';
import { pathToFileURL } from 'node:url';

const cli = process.argv[1] ?? '';
if (basename(cli) === 'cli.mjs') {
  const { default: TapReporter } = await import(new URL('../lib/reporters/tap.js', pathToFileURL(cli)).href);
  TapReporter.prototype.writeTimeout = function writeTimeout({ pendingTests, period }) {
    for (const [file, titles] of pendingTests) {
      for (const title of titles) {
        const message = `was still running when no test had finished for ${period / 1000} s`;
        const err = { type: 'ava', name: 'Timeout', originalError: new Error(message), formattedDetails: [] };
        const fullTitle = `${relative(process.cwd(), file)}: ${title}`;
        this.writeTest(
          { testFile: file, title: fullTitle, err },
          { passed: false, todo: false, skip: false },
        );
      }
    }
  };
}
