/**
 * The TensorFlow libraries the engine is made of: which wheels, and the SHA-256 each must have. The wheels
 * are Python's, but no Python code in them is used. docs/decisions/0001-engine.md says why these.
 */
import { createHash } from 'node:crypto';

/** cpu: any Linux x64 machine. gpu: the CUDA build, for NVIDIA's GPUs. Both can be installed side by side. */
export type EngineVariant = 'cpu' | 'gpu';

/** A Python wheel, as pip names it, and what must arrive. */
export interface Wheel {
  readonly requirement: string;
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface EngineRelease {
  readonly variant: EngineVariant;
  readonly version: string;
  /** Holds the two libraries and the headers. */
  readonly wheel: Wheel;
  /** NVIDIA's libraries; the CUDA build looks for them in ../nvidia beside itself. */
  readonly companions: readonly Wheel[];
  /** What is kept of them takes this much on disk. */
  readonly unpackedBytes: number;
}

/** The files of the wheel that are kept, beside `tensorflow/include/`. */
export const LIBRARY_FILES = ['libtensorflow_cc.so.2', 'libtensorflow_framework.so.2'] as const;

const VERSION = '2.21.0';

export const RELEASES: Readonly<Record<EngineVariant, EngineRelease>> = {
  cpu: {
    variant: 'cpu',
    version: VERSION,
    wheel: {
      requirement: `tensorflow-cpu==${VERSION}`,
      file: `tensorflow_cpu-${VERSION}-cp311-cp311-manylinux_2_27_x86_64.whl`,
      bytes: 273_829_956,
      sha256: '2b847d217b02ee7731ed91431daf3250daa0196c3c94614d23be27232e6e5b6c',
    },
    companions: [],
    unpackedBytes: 1_200_000_000,
  },
  gpu: {
    variant: 'gpu',
    version: VERSION,
    wheel: {
      requirement: `tensorflow==${VERSION}`,
      file: `tensorflow-${VERSION}-cp311-cp311-manylinux_2_27_x86_64.whl`,
      bytes: 572_440_367,
      sha256: '9056fbc9ba04235810b71ae6cbd958a196e8804fb53bbcffbf3e23b56155f124',
    },
    // What `tensorflow[and-cuda]` asks for, each in the oldest version it accepts: the one it was built with.
    companions: [
      companion(
        'cublas',
        '12.5.3.2',
        363_313_169,
        'ca070ad70e9fa6654084575d01bd001f30cc4665e33d4bb9fc8e0f321caa034b',
      ),
      companion(
        'cuda-cupti',
        '12.5.82',
        13_811_507,
        'bde77a5feb66752ec61db2adfe47f56b941842825b4c7e2068aff27c9d107953',
      ),
      companion(
        'cuda-nvcc',
        '12.5.82',
        22_468_537,
        'b03e545b8e8c3ce7ebcd7fc44063180ff52ff01d064ece2127ed90a04ef12cd0',
      ),
      companion(
        'cuda-nvrtc',
        '12.5.82',
        24_873_108,
        '3dbd97b0104b4bfbc3c4f8c79cd2496307c89c43c29a9f83125f1d76296ff3fd',
      ),
      companion(
        'cuda-runtime',
        '12.5.82',
        895_707,
        '3e79a060e126df40fd3a068f3f787eb000fa51b251ec6cd97d09579632687115',
      ),
      companion(
        'cudnn',
        '9.3.0.75',
        577_163_502,
        '9ad9c6929ebb5295eb4a1728024666d1c88283373e265a0c5c883e6f9d5cd76d',
      ),
      companion(
        'cufft',
        '11.2.3.61',
        192_524_114,
        '9a6e8df162585750f61983a638104a48c756aa13f9f48e19ab079b38e3c828b8',
      ),
      companion(
        'curand',
        '10.3.6.82',
        56_309_107,
        '2823fb27de4e44dbb22394a6adf53aa6e1b013aca0f8c22867d1cfae58405536',
      ),
      companion(
        'cusolver',
        '11.6.3.83',
        130_341_232,
        '93cfafacde4428b71778eeb092ec615a02a3d05404da1bcf91c53e3fa1bce42b',
      ),
      companion(
        'cusparse',
        '12.5.1.3',
        217_558_979,
        '016df8e993c437e8301e62739f01775cba988fd5253cd4c64173f8e8d2f8e752',
      ),
      companion(
        'nccl',
        '2.27.7',
        322_546_339,
        'de5ba5562f08029a19cb1cd659404b18411ed0d6c90ac5f52f30bf99ad5809aa',
        'manylinux2014_x86_64.manylinux_2_17_x86_64',
      ),
      companion(
        'nvjitlink',
        '12.5.82',
        21_298_879,
        'f9b37bc5c8cf7509665cb6ada5aaa0ce65618f2332b7d3e78e9790511f111212',
      ),
    ],
    unpackedBytes: 4_700_000_000,
  },
};

function companion(
  name: string,
  version: string,
  bytes: number,
  sha256: string,
  platform = 'manylinux2014_x86_64',
): Wheel {
  const file = `nvidia_${name.replaceAll('-', '_')}_cu12-${version}-py3-none-${platform}.whl`;
  return { requirement: `nvidia-${name}-cu12==${version}`, file, bytes, sha256 };
}

/** All wheels of a release, the one with TensorFlow first. */
export function wheelsOf(release: EngineRelease): readonly Wheel[] {
  return [release.wheel, ...release.companions];
}

/** Names the content of all wheels of a release. */
export function fingerprint({ wheel, companions }: EngineRelease): string {
  if (companions.length === 0) return wheel.sha256;
  const sums = [wheel, ...companions].map(({ sha256 }) => sha256);
  return createHash('sha256').update(sums.join('\n')).digest('hex');
}

/** Name of the folder that holds a release's libraries. */
export function libraryName(release: EngineRelease): string {
  return `tensorflow-${release.variant}-${release.version}-${fingerprint(release).slice(0, 8)}`;
}
