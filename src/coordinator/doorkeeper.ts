/**
 * Who may come in: the tokens and certificates of a coordinator, looked at again when their files change. SHELL.
 * What is decided is in identity/token.ts and exposure.ts.
 */
import { randomBytes, X509Certificate } from 'node:crypto';
import type { RunConfig } from '../config/schema.ts';
import { GaloreError } from '../errors.ts';
import { signatureOf } from '../files/file-signature.ts';
import { readPemFiles, type PemTexts } from '../files/pem.ts';
import { readTokenFile, tokensPathOf } from '../identity/token-file.ts';
import {
  judgeStored,
  judgeToken,
  newToken,
  TOKEN_RANDOM_BYTES,
  type NewToken,
  type StoredToken,
  type TokenVerdict,
} from '../identity/token.ts';
import { createChangeLogger, type ChangeLogger, type Logger } from '../log.ts';
import { checkExposure } from './exposure.ts';

/** How often files are looked at, and open connections judged again. */
const LOOK_INTERVAL_MS = 250;

/** What of the configuration is about the door. */
export type DoorConfig = Pick<RunConfig, 'dir'> & {
  readonly coordinator: Pick<RunConfig['coordinator'], 'host' | 'auth' | 'tls' | 'insecure'>;
};

/** What happened that the coordinator must act on. */
export interface DoorkeeperHandlers {
  /** Regularly: tokens may have been revoked or have expired. */
  onLook(): void;
  /** New certificates for connections from here on. */
  onCertificates(texts: PemTexts): void;
}

export class Doorkeeper {
  /** Lets the trainers in that this process starts itself; kept nowhere but in memory. */
  readonly localToken: string;
  readonly tokensPath: string;
  /** As they were when the coordinator began; null: no TLS. */
  readonly certificates: PemTexts | null;
  /** What must be told before the coordinator listens. */
  readonly warning: string | null;
  readonly #local: NewToken;
  readonly #config: DoorConfig;
  readonly #wallNowMs: () => number;
  readonly #logTokens: ChangeLogger;
  readonly #logCertificates: ChangeLogger;
  #tokens: ReadonlyMap<string, StoredToken> | null = null;
  #tokensSignature: string;
  #certificateSignature: string;
  #timer: NodeJS.Timeout | null = null;

  private constructor(
    config: DoorConfig,
    certificates: PemTexts | null,
    logger: Logger,
    wallNowMs: () => number,
  ) {
    this.#config = config;
    this.#wallNowMs = wallNowMs;
    this.certificates = certificates;
    this.tokensPath = tokensPathOf(config);
    this.#logTokens = createChangeLogger(logger, 'tokens.unreadable', 'error');
    this.#logCertificates = createChangeLogger(logger, 'certificates.unusable', 'error');
    this.#local = newToken('trainer', randomBytes(TOKEN_RANDOM_BYTES), wallNowMs(), null);
    this.localToken = this.#local.text;
    this.#certificateSignature = signatureOf(this.#certificatePaths);
    this.#tokensSignature = signatureOf([this.tokensPath]);
    this.#readTokens();
    const { host, auth, insecure } = config.coordinator;
    this.warning = checkExposure({
      host,
      hasTokens: this.#tokens !== null || auth.tokens !== undefined,
      hasTls: certificates !== null,
      isInsecure: insecure,
      tokensPath: auth.tokens ?? config.dir,
    });
  }

  /**
   * Reads tokens and certificates and checks that they suffice for the address.
   * @throws ConfigError, DataError or OperatingError, before anything of the run is written
   */
  static async open(
    config: DoorConfig,
    logger: Logger,
    wallNowMs: () => number = () => Date.now(),
  ): Promise<Doorkeeper> {
    const { tls } = config.coordinator;
    const certificates = tls === undefined ? null : await readPemFiles(tls);
    if (certificates?.cert !== undefined) warnOfExpiry(certificates.cert, wallNowMs(), logger);
    return new Doorkeeper(config, certificates, logger, wallNowMs);
  }

  /** Whether trainers must show a token: there is a file of them, or the configuration names one. */
  get asksForTokens(): boolean {
    return this.#tokens !== null || this.#config.coordinator.auth.tokens !== undefined;
  }

  /** Whether any trainer that is not started here can come in at the moment. */
  get letsAnyoneIn(): boolean {
    if (!this.asksForTokens) return true;
    return [...(this.#tokens?.values() ?? [])].some((token) => this.#judge(token).isValid);
  }

  /** Decides on the token of a Hello. */
  judge(token: string): TokenVerdict {
    this.#lookAtTokens();
    const local = judgeToken(token, this.#localTokens, 'trainer', this.#wallNowMs());
    if (local.isValid || !this.asksForTokens) return local.isValid ? local : { isValid: true, tokenId: null };
    return judgeToken(token, this.#tokens ?? new Map(), 'trainer', this.#wallNowMs());
  }

  /** Decides on the token of one who wants to look at the run: a viewer's or an operator's. */
  judgeViewer(token: string): TokenVerdict {
    this.#lookAtTokens();
    if (!this.asksForTokens) return { isValid: true, tokenId: null };
    const judged = (role: 'viewer' | 'operator'): TokenVerdict =>
      judgeToken(token, this.#tokens ?? new Map(), role, this.#wallNowMs());
    const viewer = judged('viewer');
    if (viewer.isValid || viewer.reason !== 'WRONG_ROLE') return viewer;
    const operator = judged('operator');
    return operator.isValid ? operator : viewer;
  }

  /** Decides once more on one who came in with a token of this id; null: without any. */
  judgeAgain(tokenId: string | null): TokenVerdict {
    if (tokenId === this.#local.stored.id || !this.asksForTokens) return { isValid: true, tokenId };
    const stored = tokenId === null ? undefined : this.#tokens?.get(tokenId);
    return stored === undefined
      ? {
          isValid: false,
          reason: 'UNAUTHORIZED',
          text: tokenId === null ? 'this run takes only trainers with a token now' : 'the token was removed',
        }
      : this.#judge(stored);
  }

  /** Begins to look at the files. */
  watch(handlers: DoorkeeperHandlers): void {
    this.#timer = setInterval(() => {
      this.#lookAtTokens();
      handlers.onLook();
      this.#lookAtCertificates(handlers);
    }, LOOK_INTERVAL_MS);
    this.#timer.unref();
  }

  close(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
  }

  get #localTokens(): ReadonlyMap<string, StoredToken> {
    return new Map([[this.#local.stored.id, this.#local.stored]]);
  }

  get #certificatePaths(): readonly string[] {
    const { cert, key, ca } = this.#config.coordinator.tls ?? {};
    return [cert, key, ca].filter((path) => path !== undefined);
  }

  #judge(stored: StoredToken): TokenVerdict {
    return judgeStored(stored, 'trainer', this.#wallNowMs());
  }

  #lookAtTokens(): void {
    const signature = signatureOf([this.tokensPath]);
    if (signature === this.#tokensSignature) return;
    this.#tokensSignature = signature;
    try {
      this.#readTokens();
      this.#logTokens(null);
    } catch (error) {
      if (!(error instanceof GaloreError)) throw error;
      this.#logTokens(`${error.message}; the tokens as they were before stay valid`);
    }
  }

  #readTokens(): void {
    const tokens = readTokenFile(this.tokensPath);
    if (tokens !== null) this.#tokens = new Map(tokens.map((token) => [token.id, token]));
    // A run that asked for tokens must not stand open because a file is gone.
    else if (this.#tokens !== null) {
      this.#logTokens(`${this.tokensPath} is gone; the tokens as they were before stay valid`);
    }
  }

  #lookAtCertificates(handlers: DoorkeeperHandlers): void {
    const { tls } = this.#config.coordinator;
    if (tls === undefined) return;
    const signature = signatureOf(this.#certificatePaths);
    if (signature === this.#certificateSignature) return;
    this.#certificateSignature = signature;
    readPemFiles(tls)
      .then((texts) => {
        handlers.onCertificates(texts);
        this.#logCertificates(null);
      })
      // Half of a pair may be there already: the other half is a change of its own.
      .catch((error: Error) =>
        this.#logCertificates(`${error.message}; the certificate as it was before stays in use`),
      );
  }
}

/** Trainers refuse a certificate that is past its time: whoever can renew it should hear of it first. */
function warnOfExpiry(cert: string, nowMs: number, logger: Logger): void {
  const { validTo } = new X509Certificate(cert);
  if (Date.parse(validTo) > nowMs) return;
  logger.warn('certificates.expired', { validTo }, 'the certificate has expired: trainers will refuse it');
}
