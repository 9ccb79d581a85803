# The clients: one program of Python's standard library under all its names. Nothing of the
# server is in it, so it is small and starts at once.
{
  lib,
  stdenvNoCC,
  python3,
}:
let
  source = import ../source.nix { inherit lib; };
  inherit ((lib.importTOML ../../../pyproject.toml).project) version;
  names = [
    "build-trigger"
    "bt"
    "build-status"
    "bs"
    "build-logs"
    "bl"
  ];
in
stdenvNoCC.mkDerivation {
  pname = "build-client";
  inherit version;

  src = source [
    "ci/__init__.py"
    "ci/client"
    "docs/build-client.1"
  ];

  dontConfigure = true;
  dontBuild = true;
  installPhase = ''
    runHook preInstall
    library=$out/lib/build-client
    mkdir -p "$library" "$out/bin"
    cp -r ci "$library/"
    # By content: times in the store say nothing about what is newer.
    ${python3.interpreter} -m compileall -q --invalidation-mode unchecked-hash "$library"
    # -I and -S: neither the user's variables nor other installed packages have a say.
    cat > "$out/bin/build-client" <<PROGRAM
    #!${python3.interpreter} -IS
    """bt, bs, bl and build-client: the name it is called by is the verb."""

    import sys

    sys.path.insert(0, "$library")
    from ci.client.main import main

    sys.exit(main())
    PROGRAM
    chmod +x "$out/bin/build-client"
    for name in ${toString names}; do
      ln -s build-client "$out/bin/$name"
    done

    share=$out/share
    install -D -m 644 docs/build-client.1 "$share/man/man1/build-client.1"
    mkdir -p "$share/bash-completion/completions" "$share/fish/vendor_completions.d" "$share/zsh/site-functions"
    "$out/bin/build-client" completion bash > "$share/bash-completion/completions/build-client"
    "$out/bin/build-client" completion fish > "$share/fish/vendor_completions.d/build-client.fish"
    "$out/bin/build-client" completion zsh > "$share/zsh/site-functions/_build-client"
    # bash, fish and man look for a file of the command's own name.
    for name in ${toString names}; do
      ln -s build-client "$share/bash-completion/completions/$name"
      ln -s build-client.fish "$share/fish/vendor_completions.d/$name.fish"
      ln -s build-client.1 "$share/man/man1/$name.1"
    done
    runHook postInstall
  '';

  doInstallCheck = true;
  installCheckPhase = ''
    runHook preInstallCheck
    for name in build-client ${toString names}; do
      [ "$("$out/bin/$name" --version)" = "build-client ${version}" ]
      [ -s "$out/share/man/man1/$name.1" ]
      [ -s "$out/share/bash-completion/completions/$name" ]
    done
    runHook postInstallCheck
  '';

  meta = {
    description = "Command line of build-server: bt, bs, bl";
    license = lib.licenses.mit;
    mainProgram = "build-client";
    platforms = lib.platforms.unix;
  };
}
