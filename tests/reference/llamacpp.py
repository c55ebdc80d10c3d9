"""llama.cpp through llama-cpp-python's low-level binding: logits at every position, and quantisation.

Plain CPU, two threads, the default F16 KV cache (or F32, where exactness is the question).
"""
import ctypes
import pathlib

import llama_cpp as L
import numpy as np

L.llama_backend_init()
_messages = []


@L.llama_log_callback
def _quiet(level, text, data):
    _messages.append(text.decode("utf-8", "replace"))
    del _messages[:-400]


L.llama_log_set(_quiet, ctypes.c_void_p(0))


def last_words(count=12):
    return "".join(_messages[-count:])


def logits(path, tokens, threads=2, kv="f16"):
    """float32 [tokens, vocab], all tokens in one batch."""
    mp = L.llama_model_default_params()
    mp.n_gpu_layers = 0
    mp.use_mmap = False
    model = L.llama_model_load_from_file(str(path).encode(), mp)
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path}:\n{last_words()}")
    try:
        n = len(tokens)
        cp = L.llama_context_default_params()
        cp.n_ctx, cp.n_batch, cp.n_ubatch = max(n, 8), max(n, 8), max(n, 8)
        cp.n_threads = cp.n_threads_batch = threads
        if kv == "f32":
            cp.type_k = cp.type_v = L.GGML_TYPE_F32
            cp.flash_attn_type = 0  # the CPU flash kernel rounds q to F16
        ctx = L.llama_init_from_model(model, cp)
        if not ctx:
            raise RuntimeError(f"llama.cpp makes no context for {path}:\n{last_words()}")
        try:
            batch = L.llama_batch_init(n, 0, 1)
            batch.n_tokens = n
            for i, t in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = t, i, 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = 1
            rc = L.llama_decode(ctx, batch)
            if rc != 0:
                raise RuntimeError(f"llama_decode({path}) gives {rc}:\n{last_words()}")
            vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
            out = np.ctypeslib.as_array(L.llama_get_logits(ctx), shape=(n, vocab)).copy()
            L.llama_batch_free(batch)
            return out.astype(np.float32)
        finally:
            L.llama_free(ctx)
    finally:
        L.llama_model_free(model)


FTYPES = {
    "f32": L.LLAMA_FTYPE_ALL_F32, "f16": L.LLAMA_FTYPE_MOSTLY_F16, "q8_0": L.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": L.LLAMA_FTYPE_MOSTLY_Q4_0, "q4_1": L.LLAMA_FTYPE_MOSTLY_Q4_1, "q5_0": L.LLAMA_FTYPE_MOSTLY_Q5_0,
    "q5_1": L.LLAMA_FTYPE_MOSTLY_Q5_1, "q2_k": L.LLAMA_FTYPE_MOSTLY_Q2_K, "q3_k": L.LLAMA_FTYPE_MOSTLY_Q3_K_M,
    "q4_k": L.LLAMA_FTYPE_MOSTLY_Q4_K_M, "q5_k": L.LLAMA_FTYPE_MOSTLY_Q5_K_M, "q6_k": L.LLAMA_FTYPE_MOSTLY_Q6_K,
    "iq4_nl": L.LLAMA_FTYPE_MOSTLY_IQ4_NL, "iq4_xs": L.LLAMA_FTYPE_MOSTLY_IQ4_XS,
    "mxfp4": getattr(L, "LLAMA_FTYPE_MOSTLY_MXFP4_MOE", 38),
}


def quantize(src, dst, kind, pure=True, threads=2):
    """llama.cpp's own quantiser. pure: every quantisable tensor gets the named type."""
    p = L.llama_model_quantize_default_params()
    p.ftype = FTYPES[kind]
    p.nthread = threads
    p.pure = pure
    pathlib.Path(dst).unlink(missing_ok=True)
    rc = L.llama_model_quantize(str(src).encode(), str(dst).encode(), ctypes.byref(p))
    if rc != 0:
        raise RuntimeError(f"llama_model_quantize to {kind} gives {rc}:\n{last_words(30)}")


def kl(base, other):
    """Mean KL(base || other) over positions, in nats, computed in float64."""
    def logp(x):
        x = x.astype(np.float64)
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))
    p, q = logp(base), logp(other)
    return float((np.exp(p) * (p - q)).sum(-1).mean())
