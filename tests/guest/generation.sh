#!/bin/sh
# Makes the image (generic), then runs the test: GENERIC TEST.
FORETASTE_IMAGES=$("$1") || { code=$?; echo "$FORETASTE_IMAGES"; exit $code; }
export FORETASTE_IMAGES
exec "$2"
