/** Run configurations: YAML that people write by hand, and that runs keep. */
import fc from 'fast-check';
import { stringify } from 'yaml';
import { resolvedYaml } from '../../../src/config/load.ts';
import { ConfigError } from '../../../src/errors.ts';
import { MINIMAL, resolve } from '../../config/parse.ts';
import { mutateBytes, mutateTree } from '../mutate.ts';
import { Broken, type FuzzTarget } from '../target.ts';

const TOKENS = fc.constantFrom(
  '&a ',
  '*a',
  '? ',
  '- ',
  '{',
  '}',
  '[',
  ': ',
  '!!',
  '\n',
  '  ',
  'a',
  '"',
  '<<: ',
  '|',
);

export function configTarget(): FuzzTarget {
  const plain = JSON.parse(JSON.stringify(resolve(MINIMAL))) as unknown;
  const texts = [MINIMAL, resolvedYaml(resolve(MINIMAL)), 'a: &a [x]\nb: [*a, *a]\n'].map((text) =>
    Buffer.from(text),
  );
  const soup = fc
    .sample(fc.array(TOKENS, { maxLength: 60 }), { seed: 1, numRuns: 200 })
    .map((tokens) => Buffer.from(tokens.join('')));
  return {
    name: 'config',
    refusals: [ConfigError],
    generate(dice) {
      if (dice.oneIn(10)) return dice.oneOf(soup);
      if (dice.oneIn(2)) return mutateBytes(dice.oneOf(texts), dice, [...texts, ...soup]);
      return Buffer.from(stringify(mutateTree(plain, dice)));
    },
    decode(input) {
      const text = Buffer.from(input).toString('utf8');
      try {
        const config = resolve(text);
        if (resolvedYaml(resolve(resolvedYaml(config))) !== resolvedYaml(config)) {
          throw new Broken('a configuration that was accepted is another one when it is kept and read again');
        }
      } catch (error) {
        if (error instanceof ConfigError && error.faults.some(({ allowed }) => allowed === '')) {
          throw new Broken(`a fault does not say what is allowed: ${error.message}`);
        }
        throw error;
      }
    },
  };
}
