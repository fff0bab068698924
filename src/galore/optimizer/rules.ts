/** The optimizer rules by name. */
import { adamwRule } from './adamw.ts';
import type { RuleName } from './rule-state.ts';
import type { OptimizerRule } from './rule.ts';

/** The rule of that name. */
export function ruleFor(name: RuleName): OptimizerRule {
  switch (name) {
    case 'adamw':
      return adamwRule;
    default:
      throw new RangeError(`the rule ${name} is not there yet`);
  }
}
