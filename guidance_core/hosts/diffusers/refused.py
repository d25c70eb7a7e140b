"""Pipelines of diffusers that are not guided, and why."""

from __future__ import annotations

from collections.abc import Mapping

_NO_GUIDANCE = (
    "it does no classifier-free guidance: its model never sees a negative condition, and takes guidance_scale, if any, "
    "as an input"
)
_COMBINED = "it runs other pipelines; guide the one that makes the picture, an attribute of this one"
_TWO_SCALES = "it guides by a text and by a picture with a scale for each, from three predictions"
_OWN_MODEL = "its negative prediction comes from another model or from other inputs than a second condition"
_THREE_CHANNELS = "it guides the first three channels of its latents alone"
_VARIANCE = (
    "its scheduler takes a variance from the model beside the prediction, which a guided prediction does not have"
)
_PARTS = "it runs its scheduler several times in one call, for one part of a video or one size after another"
_CLEAN = (
    "parts of its sample are clean or have noise levels of their own, and one level for all would be wrong for them"
)
_PRIOR = "the noise levels of its scheduler, or of the prior that it runs, are not known"
_AUDIO = "audio pipelines were not tried"

_BY_REASON: Mapping[str, tuple[str, ...]] = {
    _NO_GUIDANCE: (
        "Flux2KleinKVPipeline", "Flux2Pipeline", "FluxControlImg2ImgPipeline", "FluxControlInpaintPipeline",
        "FluxControlNetImg2ImgPipeline", "FluxControlNetInpaintPipeline", "FluxControlPipeline", "FluxFillPipeline",
        "DreamLiteMobilePipeline", "LatentConsistencyModelImg2ImgPipeline", "LatentConsistencyModelPipeline",
        "SanaSprintImg2ImgPipeline", "SanaSprintPipeline", "VisualClozeGenerationPipeline", "Kandinsky6SRPipeline",
        "ConsistencyModelPipeline", "DDIMPipeline", "DDPMPipeline", "DiffusionGemmaPipeline", "FluxPriorReduxPipeline",
        "LDMSuperResolutionPipeline", "LLaDA2Pipeline", "LTX2LatentUpsamplePipeline",
        "LTX2VideoDiffusionDecodePipeline", "LTXLatentUpsamplePipeline", "MarigoldDepthPipeline",
        "MarigoldIntrinsicsPipeline", "MarigoldNormalsPipeline", "RFD4ProteinaPipeline",
    ),
    _COMBINED: (
        "KandinskyCombinedPipeline", "KandinskyImg2ImgCombinedPipeline", "KandinskyInpaintCombinedPipeline",
        "KandinskyV22CombinedPipeline", "KandinskyV22Img2ImgCombinedPipeline", "KandinskyV22InpaintCombinedPipeline",
        "StableCascadeCombinedPipeline", "VisualClozePipeline",
    ),
    _TWO_SCALES: (
        "DreamLitePipeline", "LEditsPPPipelineStableDiffusion", "LEditsPPPipelineStableDiffusionXL", "OmniGenPipeline",
        "StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline",
    ),
    _OWN_MODEL: (
        "Cosmos3OmniPipeline", "GlmImagePipeline", "Ideogram4Pipeline", "Kandinsky6TI2VAPipeline",
    ),
    _THREE_CHANNELS: ("DiTPipeline", "LuminaPipeline"),
    _VARIANCE: (
        "IFImg2ImgPipeline", "IFImg2ImgSuperResolutionPipeline", "IFInpaintingPipeline",
        "IFInpaintingSuperResolutionPipeline", "IFPipeline", "IFSuperResolutionPipeline", "KandinskyImg2ImgPipeline",
        "KandinskyInpaintPipeline", "KandinskyPipeline", "KandinskyV22ControlnetImg2ImgPipeline",
        "KandinskyV22ControlnetPipeline", "KandinskyV22Img2ImgPipeline", "KandinskyV22InpaintPipeline",
        "KandinskyV22Pipeline",
    ),
    _PARTS: (
        "AnyFlowFARPipeline", "HeliosPipeline", "HeliosPyramidPipeline", "HunyuanVideoFramepackPipeline",
        "LTX2DFRPipeline", "LTX2DFRTemporalRefinePipeline", "LTXI2VLongMultiPromptPipeline", "SanaWMPipeline",
        "SkyReelsV2DiffusionForcingImageToVideoPipeline", "SkyReelsV2DiffusionForcingPipeline",
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline", "WanAnimatePipeline",
    ),
    _CLEAN: (
        "Cosmos2VideoToWorldPipeline", "Cosmos2_5_PredictBasePipeline", "Cosmos2_5_TransferPipeline",
        "CosmosVideoToWorldPipeline", "LTX2ConditionPipeline", "LTX2HDRPipeline", "LTX2ImageToVideoPipeline",
        "LTX2InContextPipeline", "LTXConditionPipeline", "LTXImageToVideoPipeline", "SanaImageToVideoPipeline",
        "HunyuanVideoImageToVideoPipeline", "Kandinsky5I2VPipeline", "StableVideoDiffusionPipeline",
    ),
    _PRIOR: (
        "CosmosTextToWorldPipeline", "KandinskyPriorPipeline", "KandinskyV22PriorEmb2EmbPipeline",
        "KandinskyV22PriorPipeline", "ShapEImg2ImgPipeline", "ShapEPipeline", "StableCascadeDecoderPipeline",
        "StableCascadePriorPipeline", "StableUnCLIPImg2ImgPipeline", "StableUnCLIPPipeline",
        "StableDiffusionLatentUpscalePipeline",
    ),
    _AUDIO: (
        "AceStepPipeline", "AudioLDM2Pipeline", "LongCatAudioDiTPipeline", "StableAudio3AudioToAudioPipeline",
        "StableAudio3InpaintPipeline", "StableAudio3Pipeline", "StableAudioPipeline",
    ),
}  # fmt: skip

REASONS: Mapping[str, str] = {name: reason for reason, names in _BY_REASON.items() for name in names}
"Why a pipeline cannot be guided, by the name of its class."

LIKE: Mapping[str, tuple[str, ...]] = {
    "AnimateDiffPipeline": (
        "AnimateDiffControlNetPipeline", "AnimateDiffPAGPipeline", "AnimateDiffSDXLPipeline",
        "AnimateDiffSparseControlNetPipeline", "AnimateDiffVideoToVideoControlNetPipeline",
        "AnimateDiffVideoToVideoPipeline",
    ),
    "AuraFlowPipeline": (
        "AnyFlowPipeline", "BriaFiboPipeline", "BriaFiboEditPipeline", "BriaPipeline", "EasyAnimateControlPipeline",
        "EasyAnimateInpaintPipeline", "EasyAnimatePipeline", "ErnieImagePipeline", "JoyImageEditPlusPipeline",
    ),
    "ChromaPipeline": (
        "ChromaImg2ImgPipeline", "ChromaInpaintPipeline", "ChronoEditPipeline", "BriaFibo2Pipeline",
        "JoyImageEditPipeline", "Kandinsky5I2IPipeline", "Kandinsky5T2IPipeline", "Kandinsky5T2VPipeline",
        "Krea2Pipeline", "LongCatImageEditPipeline", "LongCatImagePipeline", "NucleusMoEImagePipeline",
        "OvisImagePipeline",
    ),
    "CogVideoXPipeline": (
        "CogVideoXFunControlPipeline", "CogVideoXImageToVideoPipeline", "CogVideoXVideoToVideoPipeline",
        "ConsisIDPipeline",
    ),
    "CogView4Pipeline": ("CogView4ControlPipeline",),
    "Flux2KleinPipeline": ("Flux2KleinInpaintPipeline",),
    "FluxImg2ImgPipeline": ("FluxInpaintPipeline",),
    "FluxKontextPipeline": ("FluxKontextInpaintPipeline",),
    "HunyuanDiTPipeline": ("HunyuanDiTControlNetPipeline", "HunyuanDiTPAGPipeline"),
    "HunyuanImagePipeline": ("HunyuanImageRefinerPipeline",),
    "HunyuanVideoPipeline": ("HunyuanSkyreelsImageToVideoPipeline",),
    "HunyuanVideo15Pipeline": (
        "HunyuanVideo15ImageToVideoPipeline", "MotifVideoImage2VideoPipeline", "MotifVideoPipeline",
    ),
    "PixArtSigmaPipeline": ("PixArtSigmaPAGPipeline",),
    "PRXPipeline": ("PRXPixelPipeline",),
    "QwenImageEditPipeline": (
        "QwenImageEditInpaintPipeline", "QwenImageEditPlusPipeline", "QwenImageLayeredPipeline",
    ),
    "QwenImagePipeline": (
        "QwenImage21Pipeline", "QwenImageControlNetInpaintPipeline", "QwenImageControlNetPipeline",
        "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline",
    ),
    "SanaPipeline": ("SanaControlNetPipeline", "SanaPAGPipeline"),
    "SkyReelsV2Pipeline": ("SkyReelsV2ImageToVideoPipeline",),
    "StableDiffusion3ControlNetPipeline": ("StableDiffusion3ControlNetInpaintingPipeline",),
    "StableDiffusion3Img2ImgPipeline": (
        "StableDiffusion3InpaintPipeline", "StableDiffusion3PAGImg2ImgPipeline", "StableDiffusion3PAGPipeline",
    ),
    "StableDiffusionControlNetPipeline": (
        "BlipDiffusionControlNetPipeline", "StableDiffusionAdapterPipeline", "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline", "StableDiffusionDepth2ImgPipeline",
        "StableDiffusionUpscalePipeline",
    ),
    "StableDiffusionPAGPipeline": (
        "StableDiffusionControlNetPAGInpaintPipeline", "StableDiffusionControlNetPAGPipeline",
        "StableDiffusionPAGImg2ImgPipeline", "StableDiffusionPAGInpaintPipeline", "KolorsPAGPipeline",
        "StableDiffusionXLControlNetPAGImg2ImgPipeline", "StableDiffusionXLControlNetPAGPipeline",
        "StableDiffusionXLPAGImg2ImgPipeline", "StableDiffusionXLPAGInpaintPipeline", "StableDiffusionXLPAGPipeline",
    ),
    "StableDiffusionPipeline": (
        "Kandinsky3Img2ImgPipeline", "Kandinsky3Pipeline", "LDMTextToImagePipeline",
        "StableDiffusionImageVariationPipeline",
    ),
    "StableDiffusionXLPipeline": (
        "KolorsImg2ImgPipeline", "KolorsPipeline", "StableDiffusionXLAdapterPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline", "StableDiffusionXLControlNetInpaintPipeline",
        "StableDiffusionXLControlNetUnionImg2ImgPipeline", "StableDiffusionXLControlNetUnionInpaintPipeline",
        "StableDiffusionXLControlNetUnionPipeline",
    ),
    "WanPipeline": ("LucyEditPipeline", "WanVideoToVideoPipeline"),
    "ZImagePipeline": (
        "ZImageControlNetInpaintPipeline", "ZImageControlNetPipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline",
        "ZImageOmniPipeline",
    ),
}  # fmt: skip
"By the name of a pipeline that works: those that seem to call their models as it does, but were not tried."

UNTRIED: Mapping[str, str] = {name: known for known, names in LIKE.items() for name in names}
"What a pipeline that was not tried seems to be like, by the name of its class."
