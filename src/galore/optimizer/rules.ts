/** The optimizer rules by name. */
import { adafactorRule } from './adafactor.ts';
import { adamw8bitRule } from './adamw-8bit.ts';
import { adamwRule } from './adamw.ts';
import { apolloMiniRule, apolloRule } from './apollo.ts';
import { firaRule } from './fira.ts';
import { ldadamRule } from './ldadam.ts';
import type { RuleName } from './rule-state.ts';
import type { OptimizerRule } from './rule.ts';
import { sgdRule } from './sgd.ts';
import { sumoRule } from './sumo.ts';

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
  }
}
