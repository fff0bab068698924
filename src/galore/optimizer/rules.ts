/** The optimizer rules by name. */
import { adamwRule } from './adamw.ts';
import { apolloMiniRule, apolloRule } from './apollo.ts';
import { firaRule } from './fira.ts';
import { ldadamRule } from './ldadam.ts';
import type { RuleName } from './rule-state.ts';
import type { OptimizerRule } from './rule.ts';
import { sumoRule } from './sumo.ts';

/** The rule of that name. */
export function ruleFor(name: RuleName): OptimizerRule {
  switch (name) {
    case 'adamw':
      return adamwRule;
    case 'sumo':
      return sumoRule;
    case 'fira':
      return firaRule;
    case 'apollo':
      return apolloRule;
    case 'apollo-mini':
      return apolloMiniRule;
    case 'ldadam':
      return ldadamRule;
    default:
      throw new RangeError(`the rule ${name} is not there yet`);
  }
}
