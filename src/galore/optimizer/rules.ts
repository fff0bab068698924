/** The optimizer rules by name, and the state they begin with. */
import type { Slot } from '../slot.ts';
import { adafactorRule } from './adafactor.ts';
import { adamw8bitRule } from './adamw-8bit.ts';
import { adamwRule } from './adamw.ts';
import { apolloMiniRule, apolloRule } from './apollo.ts';
import { firaRule } from './fira.ts';
import { ldadamRule } from './ldadam.ts';
import { outerAdamRule, outerNesterovRule, outerRule } from './outer.ts';
import { ruleState, type RuleName } from './rule-state.ts';
import type { OptimizerRule, RuleState } from './rule.ts';
import { firstFactors, powerRule } from './power.ts';
import { sgdRule } from './sgd.ts';
import { sumoRule } from './sumo.ts';
import { zerosOf } from './zeros.ts';

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
    case 'power':
      return powerRule;
    case 'outer':
      return outerRule;
    case 'outer-nesterov':
      return outerNesterovRule;
    case 'outer-adam':
      return outerAdamRule;
  }
}

/**
 * What a slot's rule keeps before the first step: zeros, but for the factors of a power slot, which come from
 * the run's seed. The caller disposes the tensors.
 */
export function firstState(slot: Slot, seed: number): RuleState {
  const factors = slot.policy === 'power' ? firstFactors(slot, seed) : {};
  return { ...zerosOf(ruleState(slot).filter(({ kind }) => !(kind in factors))), ...factors };
}
