/** Tests of rules between fields of the configuration, from a list of them. */
import test from 'ava';
import { resolvedYaml } from '../../src/config/load.ts';
import { MINIMAL, refusal, resolve } from './parse.ts';

/** Settings that break one rule, the field that is blamed, words of the sentence, and settings that mend it. */
export interface BrokenRule {
  readonly title: string;
  readonly broken: readonly string[];
  readonly field: string;
  readonly words?: RegExp;
  readonly mended: readonly string[];
}

/** A test for each: one fault that says so; mended, the configuration loads, and again from what it resolves to. */
export function testRules(rules: readonly BrokenRule[]): void {
  for (const { title, broken, field, words, mended } of rules) {
    test(title, (t) => {
      const { faults, message } = refusal(MINIMAL, ...broken);
      t.deepEqual(
        faults.map((fault) => fault.field),
        [field],
        message,
      );
      if (words !== undefined) t.regex(message, words);
      const config = resolve(MINIMAL, ...mended);
      t.deepEqual(resolve(resolvedYaml(config)), config);
    });
  }
}
