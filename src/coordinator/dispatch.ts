/** How the parts of the shell tell the core what happened. */
import type { Event } from './core/state.ts';

/** An event without its time, which the coordinator adds. */
export type Fact = Event extends infer E ? (E extends Event ? Omit<E, 'nowMs'> : never) : never;

/** Hands a fact to the core; the effects are carried out before it returns, unless one is being handled. */
export type Dispatch = (fact: Fact) => void;
