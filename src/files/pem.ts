/** Certificates and keys in PEM files, checked before they are used, so that the error names the file. SHELL. */
import { X509Certificate, createPrivateKey } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import { DataError } from '../errors.ts';
import { readSmallFile } from './small-file.ts';

const MAX_PEM_BYTES = 1024 * 1024;

/** Texts of PEM files, as `node:tls` takes them. */
export interface PemTexts {
  readonly cert?: string;
  readonly key?: string;
  readonly ca?: string;
}

/** Where they are. */
export type PemPaths = { readonly [Name in keyof PemTexts]?: string | undefined };

/**
 * Reads the files and checks that each is what its name says and that key and certificate belong together.
 * @throws DataError that names the file, OperatingError if one cannot be read
 */
export async function readPemFiles(paths: PemPaths): Promise<PemTexts> {
  const [cert, key, ca] = await Promise.all([paths.cert, paths.key, paths.ca].map(readPem));
  if (paths.cert !== undefined) checkCertificate(paths.cert, cert!);
  if (paths.ca !== undefined) checkCertificate(paths.ca, ca!);
  if (paths.key !== undefined) checkKey(paths.key, key!, paths.cert, cert);
  const texts = {
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
    ...(ca === undefined ? {} : { ca }),
  };
  try {
    createSecureContext(texts);
  } catch (error) {
    // Such as one that is damaged behind the first certificate, or a key that is too short.
    const named = Object.values(paths).filter((path) => path !== undefined);
    const why = (error as Error).message;
    throw new DataError(named[0] ?? '', `${named.join(', ')} cannot be used for TLS: ${why}`, {
      cause: error,
    });
  }
  return texts;
}

async function readPem(path: string | undefined): Promise<string | undefined> {
  if (path === undefined) return undefined;
  return Buffer.from(await readSmallFile(path, MAX_PEM_BYTES)).toString('utf8');
}

function checkCertificate(path: string, text: string): void {
  if (!text.includes('-----BEGIN CERTIFICATE-----')) {
    const isKey = text.includes('PRIVATE KEY-----');
    throw new DataError(
      path,
      `${path} holds no certificate in PEM form${isKey ? ', but a private key' : ''}`,
    );
  }
  try {
    new X509Certificate(text);
  } catch (error) {
    throw new DataError(path, `the certificate in ${path} cannot be read: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function checkKey(path: string, text: string, certPath?: string, cert?: string): void {
  let key;
  try {
    key = createPrivateKey(text);
  } catch (error) {
    const isLocked = text.includes('ENCRYPTED');
    const why = isLocked ? 'it is encrypted; it must be kept without a passphrase' : (error as Error).message;
    // The cause is left out: nothing of a key may come into a log.
    throw new DataError(path, `${path} holds no private key in PEM form that can be used: ${why}`);
  }
  if (cert !== undefined && !new X509Certificate(cert).checkPrivateKey(key)) {
    throw new DataError(path, `the key in ${path} is not that of the certificate in ${certPath}`);
  }
}
