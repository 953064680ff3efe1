import django.db.models.deletion
import programs.blog.models
from django.db import migrations, models
from django.db.models.expressions import RawSQL


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel("Author", [
            ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ("tenant_id", models.IntegerField(default=programs.blog.models.current_tenant)),
            ("name", models.CharField(max_length=100)),
            ("email", models.EmailField(max_length=254)),
            ("profile", models.JSONField(default=dict)),
        ]),
        migrations.CreateModel("Tag", [
            ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ("name", models.CharField(max_length=100)),
        ]),
        migrations.CreateModel("Post", [
            ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ("tenant_id", models.IntegerField(db_index=True, default=programs.blog.models.current_tenant)),
            ("title", models.CharField(max_length=200)),
            ("body", models.TextField(blank=True)),
            ("published", models.DateTimeField(null=True)),
            ("author", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="posts", to="blog.author")),
            ("tags", models.ManyToManyField(related_name="posts", to="blog.tag")),
        ]),
        migrations.CreateModel("Comment", [
            ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ("tenant_id", models.IntegerField(db_default=RawSQL("current_setting('solo.tenant', true)::int", []))),
            ("text", models.TextField()),
            ("created", models.DateTimeField(auto_now_add=True)),
            ("post", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="comments", to="blog.post")),
        ]),
    ]
