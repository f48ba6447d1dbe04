"""Writes a `jax.export` program as a TensorFlow SavedModel. Only this module of the package imports TensorFlow.

The program is stored in the same operation that jax2tf uses, and TensorFlow's XLA runs it. This module does not use
jax2tf, or orbax-export 0.0.8, which calls jax2tf. Both are maintained, but they write a StableHLO version from a few
weeks before JAX's release. TensorFlow 2.21 reads StableHLO up to version 1.13.7. So it refuses an error function from
jax 0.10.2 on (1.15.0), and any batch of variable size from 0.12.0 on (1.18.0).
"""

import numpy as np
import tensorflow as tf
from jax import export as jax_export
from jax.extend import lowering
from jax.extend.mlir import ir, passmanager
from jax.extend.mlir.dialects import chlo, stablehlo
from tensorflow.compiler.tf2xla.python import xla

STABLEHLO_VERSION = "1.9.0"  # of February 2025; has all that the model needs
# Error functions are composite operations. With them, TensorFlow cannot infer the shapes that depend on the batch.
_PASSES = "builtin.module(func.func(stablehlo-legalize-composite-to-call))"


def write(out: str, exported: jax_export.Exported, params: dict[str, np.ndarray]) -> None:
    """Writes saved_model.pb and variables/, with one signature: `frames` -> `logits`, for any number of clips.

    Args:
        out: folder, local or gs://.
        exported: (params, frames [batch, ...]) -> logits [batch, classes].
        params: stored as variables.
    """
    module = tf.Module()
    module.variables_by_path = variables = {name: tf.Variable(array) for name, array in params.items()}
    *_, frames_aval = exported.in_avals
    spec = tf.TensorSpec([None, *frames_aval.shape[1:]], frames_aval.dtype.name, name="frames")
    portable = _portable(exported)

    def serve(frames: tf.Tensor) -> dict[str, tf.Tensor]:
        arguments = [*(variables[name] for name in sorted(variables)), frames]
        return {"logits": _call(exported, portable, [arguments[i] for i in exported.module_kept_var_idx])}

    traced = tf.function(serve, [spec], autograph=False)
    tf.saved_model.save(module, out, {"serving_default": traced.get_concrete_function()})


def _call(exported: jax_export.Exported, portable: bytes, arguments: list) -> tf.Tensor:
    (logits,) = exported.out_avals
    (result,) = xla.call_module(
        arguments,
        version=exported.calling_convention_version,
        module=portable,
        Tout=[logits.dtype.name],
        Sout=[[None, *logits.shape[1:]]],
        platforms=[platform.upper() for platform in exported.platforms],
    )
    return result


def _portable(exported: jax_export.Exported) -> bytes:
    """The program in StableHLO of STABLEHLO_VERSION, without composite operations."""
    with lowering.JaxIrContext() as context:
        context.append_dialect_registry(lowering.upstream_dialects)
        context.load_all_available_dialects()
        stablehlo.register_dialect(context)
        chlo.register_dialect(context)
        stablehlo.register_stablehlo_passes()
        module = ir.Module.parse(exported.mlir_module())
        passmanager.PassManager.parse(_PASSES).run(module.operation)
        return stablehlo.serialize_portable_artifact_str(str(module), STABLEHLO_VERSION)
