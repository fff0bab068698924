/** The optimizer rules by name. */
import { adafactorRule } from './adafactor.ts';
import { adamw8bitRule } from './adamw-8bit.ts';
import { adamwRule } from './adamw.ts';
import type { RuleName } from './rule-state.ts';
import type { OptimizerRule } from './rule.ts';
import { sgdRule } from './sgd.ts';

/** The rule of that name. */
export function ruleFor(name: RuleName): OptimizerRule {
  switch (name) {
    case 'adamw':
      return adamwRule;
    case 'adamw-8bit':
      return adamw8bitRule;
    case 'adafactor':
    case 'adafactor-momentum':
      return adafactorRule;
    case 'sgd':
    case 'sgd-momentum':
      return sgdRule;
    default:
      throw new RangeError(`the rule ${name} is not there yet`);
  }
}
