"""Models other than ONNX: recognise them, convert them, prove that nothing has changed.

A converter is a file of `foreign` and a list of pinned requirements. It gets a virtual environment
of its own, made on demand, so that the server's own stays small, and works in a confined child.

Beside those of `edgectl_server.pipeline.errors` the codes are:

==========================  ==================================================================
``convert.format``          the name and the content of the file do not fit together
``convert.pickle``          a pickle, or what torch.save writes: it could run any code
``convert.forbidden_type``  a ``.skops`` file needs a type that is not allowed
``convert.unsafe``          a Keras model with code of its own, such as a Lambda layer
``convert.too_large``       the file, or what it holds, is larger than the limit
``convert.damaged``         it cannot be read
``convert.path``            an archive with a name outside of it, a link, or a name twice
``convert.no_model``        it can be read and holds no model
``convert.signature``       a SavedModel without the signature ``serving_default``
``convert.classes``         classes by name, without scores
``convert.batch``           exported for a fixed number of samples
``convert.unsupported``     the model uses what its converter or ONNX does not have
``convert.source``          the source cannot be run
``convert.data``            the samples do not fit to the model's inputs
``convert.differs``         the converted model answers otherwise than its source
``convert.missing``         failed: its environment is not there and cannot be made
``convert.disk``            failed: no room for the environment
``convert.time``            failed: the installation took too long
==========================  ==================================================================
"""
