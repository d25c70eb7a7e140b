"""Every pipeline of diffusers that is proven to work."""

import editing_pipelines
import picture_pipelines
import small_pipelines
import video_pipelines

CASES = [*small_pipelines.CASES, *editing_pipelines.CASES, *picture_pipelines.CASES, *video_pipelines.CASES]
