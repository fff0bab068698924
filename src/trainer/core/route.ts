/**
 * Which of several addresses a trainer tries next, and when it has been round all of them. Pure: what the addresses
 * are, and which name has which, is addresses.ts' business; here they are numbers from 0.
 *
 * A round tries each address once, without a wait between them; then there is one. Where a standby knows who leads
 * the run that address comes next.
 */

export interface Route {
  /** How many addresses there are. */
  readonly count: number;
  /** The current one, or the next one where no socket is open. */
  readonly address: number;
  /** Those that have failed in this round. */
  readonly tried: readonly number[];
  /** A standby has answered in this round: the run is there, and somebody will soon lead it. */
  readonly hasStandby: boolean;
  /** Answers in a row that trying again would not change, whichever address gave them. */
  readonly refusals: number;
}

/** What a standby answers. */
export interface StandbyAnswer {
  /** Of whom it takes for the leader; null: it knows of none, or of one that has no address here. */
  readonly leader: number | null;
}

export function startRoute(count: number): Route {
  return { count, address: 0, tried: [], hasStandby: false, refusals: 0 };
}

/** The current address was good: a failure from here on is the first one of a round. */
export function routeThatHolds(route: Route): Route {
  return { ...route, tried: [], hasStandby: false, refusals: 0 };
}

/** Where names have got other addresses. */
export function routeOf(route: Route, count: number): Route {
  const tried = route.tried.filter((address) => address < count);
  return { ...route, count, tried, address: route.address % count };
}

/** The current address has failed. `isRoundOver`: all have, and the next try needs a wait. */
export function nextRoute(
  route: Route,
  standby: StandbyAnswer | null,
  isRefusal: boolean,
): { readonly route: Route; readonly isRoundOver: boolean } {
  const { count, address } = route;
  const tried = [...route.tried, address];
  const following = Array.from({ length: count }, (_, i) => (address + 1 + i) % count);
  const leader = standby?.leader ?? null;
  const hasStandby = route.hasStandby || standby !== null;
  const refusals = isRefusal ? route.refusals + 1 : 0;
  const inTurn = leader === null ? following : [leader, ...following];
  const next = inTurn.find((each) => !tried.includes(each));
  return next === undefined
    ? { route: { ...route, address: inTurn[0]!, tried: [], hasStandby, refusals }, isRoundOver: true }
    : { route: { ...route, address: next, tried, hasStandby, refusals }, isRoundOver: false };
}
