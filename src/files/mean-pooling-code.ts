/**
 * The mean-pooled classifier as code for transformers, which has no class for it: a file beside config.json that
 * `from_pretrained(DIR, trust_remote_code=True)` runs. Pure.
 */
import type { BertConfig } from '../model/bert-config.ts';

/** Name of the file. */
export const MEAN_POOLING_FILE = 'modeling_mean_pooling.py';

const CLASSES = { bert: 'Bert', roberta: 'Roberta' } as const;

/** What config.json says of the file, where the model needs it. */
export function autoMapOf({ modelType, pooling }: BertConfig): Record<string, unknown> {
  if (pooling === 'cls') return {};
  const name = `${CLASSES[modelType]}MeanPoolingForSequenceClassification`;
  return {
    architectures: [name],
    auto_map: {
      AutoModelForSequenceClassification: `${MEAN_POOLING_FILE.replace(/\.py$/, '')}.${name}`,
    },
  };
}

/** The file. */
export function meanPoolingCode({ modelType }: BertConfig): string {
  const family = CLASSES[modelType];
  return `"""A ${family} whose texts are classified from the mean of their tokens; written by galore export.

AutoModelForSequenceClassification.from_pretrained(FOLDER, trust_remote_code=True)
"""
import torch
from transformers import ${family}Model, ${family}PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class ${family}MeanPoolingForSequenceClassification(${family}PreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.${modelType} = ${family}Model(config, add_pooling_layer=False)
        self.classifier = torch.nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, labels=None, **options):
        options.pop("return_dict", None)
        outputs = self.${modelType}(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, **options)
        hidden = outputs.last_hidden_state
        mask = torch.ones(hidden.shape[:2], device=hidden.device) if attention_mask is None else attention_mask
        mask = mask.to(hidden.dtype).unsqueeze(-1)
        logits = self.classifier((hidden * mask).sum(1) / mask.sum(1))
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels.view(-1))
        return SequenceClassifierOutput(loss=loss, logits=logits)
`;
}
