import torch, importlib
def test_all(pack, run, model_and_vae):
    model, vae = model_and_vae
    P, A = run(pack.EMOExampleInputs)
    emb, audio, frames, fps = run(pack.LoadAudioEmbedding, audio=A, model=model, duration=0.5)
    print(frames, fps)
    ref, lat = run(pack.ReferenceNetEncode, model=model, vae=vae, image=P)
    region, prev = run(pack.FaceLocatorMask, image=P)
    sp, _ = run(pack.SpeedBuckets, model=model)
    film, motion = run(pack.MotionFrameLooper, model=model, reference=ref, audio_embedding=emb, region=region, speed=sp, steps=2)
    print(film["samples"].shape, motion["samples"].shape)
    m, pos, neg, empty, seed, kept = run(pack.EMOConditioning, model=model, reference=ref, audio_embedding=emb, region=region, speed=sp, clip_index=0)
    clip, mo = run(pack.EMOSampler, model=model, reference=ref, audio_embedding=emb, region=region, speed=sp, clip_index=0, steps=2)
    import nodes as host_nodes
    out = host_nodes.common_ksampler(m, seed, 2, 2.0, "euler", "simple", pos, neg, empty)[0]
    assert torch.equal(out["samples"][:kept], clip["samples"])
    assert torch.equal(film["samples"][:4], clip["samples"])
    (video,) = run(pack.EMODecodeVideo, vae=vae, latent=film, audio=audio, fps=fps)
    print(video)
