"""As many rows as COCO train2017 has images through ``propose``, on logical GPUs that sleep; and what the real ones would cost.

python -m benchmarks.coco_scale
"""
