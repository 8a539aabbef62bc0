"""From text to `meshca.router.mesh.objects`, and to what is wrong with it. Pure."""
