/** What the attackers are told, and what they tell. */

export interface AttackJob {
  readonly url: string;
  /** Lets a trainer in. */
  readonly token: string;
  readonly messages: number;
  /** Messages a second, of all together. */
  readonly rate: number;
  readonly seed: number;
  /** Frames that a real trainer has sent, base64. */
  readonly frames: readonly string[];
}

export interface AttackReport {
  /** Sent while the connection was open as far as the sender knew. */
  readonly messages: number;
  readonly connections: number;
  readonly seconds: number;
  /** Connections by how they began, and by how they ended. */
  readonly scenarios: Readonly<Record<string, number>>;
  readonly closings: Readonly<Record<string, number>>;
}
