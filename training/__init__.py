"""Offline training: contrastive pretraining, saliency decoder, evaluation, analysis, export."""
